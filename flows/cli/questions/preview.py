"""Questions about an archive or a workspace, answered from scan and ledger without changing anything (but `clean`)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flows.jobs import Job
from infra import extras
from infra.ledger import Ledger
from infra.storage import Storage
from infra.weights import open_store, weights_row
from tasks.archive import scan_archive
from tasks.pictures import Limits
from tasks.recipes import COMMIT, Shape, foretell

if TYPE_CHECKING:
    from infra.settings import Settings
    from tasks.recipes import Recipe

Keys = tuple[dict[str, str], str]
"""The digests of a recipe's stages with the weights that are here, and where and in what it computes."""
OUTPUT_PER_INPUT = 1.3
"""Bytes of restored files per byte of input, with room to spare; what is known better comes from the ledger."""


def scan_counts(source: str, include: tuple[str, ...], exclude: tuple[str, ...]) -> dict[str, Any]:
    """How many files, of which formats, and what cannot be used and why. Raises StorageMissing without a source."""
    counts: Counter[str] = Counter()
    total = 0
    for row in scan_archive(Storage(source), {}, include=include, exclude=exclude):
        counts[row["problem"] or row["format"] or "?"] += 1
        total += row["bytes"] or 0
    return {"found": counts.total(), "bytes": total, **dict(counts.most_common())}


def preview(job: Job, *, preflight: bool = True) -> dict[str, Any]:
    """What `run` would do, and what it would need; writes to neither archive nor workspace.

    With `preflight` a few pictures are measured where nothing is known yet of this recipe, machine and archive.
    """
    settings, recipe = job.load_settings(), job.load_recipe()
    storage = Storage(job.workspace)
    source = Storage(job.source, apart=storage)
    ledger = Ledger.open(storage, create=False) if storage.exists("_format.json") else None
    store = open_store(settings.weights_dir, settings.weights_table)
    missing = sorted({n for s in recipe.stages for n in s.weights if not store.status(n).present})
    absent = extras.missing(extra for stage in recipe.stages for extra in stage.extras)
    known = {row["path"]: row for row in ledger.files().to_pylist()} if ledger else {}
    limits = Limits(max_pixels=settings.max_pixels)
    began = time.monotonic()
    changes = list(scan_archive(source, known, include=job.include, exclude=job.exclude, limits=limits))
    scan_seconds = time.monotonic() - began
    found = len(known | {row["path"]: row for row in changes if row["present"]}) - _gone(changes)
    keys = None if missing or absent else _keys_of(recipe, settings)
    planned = _work(ledger, known, changes, keys)
    work = [row for _, row in planned]
    told, unknown = (
        (None, "") if keys is None else _forecast(job, ledger, keys, planned, found, scan_seconds, preflight)
    )
    free = storage.free_bytes()
    output = int(OUTPUT_PER_INPUT * sum(row["bytes"] or 0 for row in work))
    return {
        "schema": 1,
        "found": found,
        "images": len(work),
        "why": dict(Counter(why for why, _ in planned)),
        "problems": dict(Counter(row["problem"] for row in changes if row["problem"] and row["present"])),
        "gone": _gone(changes),
        "recipe": recipe.name,
        "stages": [stage.id for stage in recipe.stages],
        "extras_missing": absent,
        "weights_missing": [weights_row(store, name) for name in missing],
        "output_bytes": output,
        "intermediates_bytes": int(settings.keep_intermediates_gb * 1e9),
        "free_bytes": free,
        "fits": free is None or free > output,
        "seconds": told["seconds"] if told else None,
        "forecast": told,
        "no_forecast": _unmeasurable(missing, absent) or unknown,
    }


def _unmeasurable(weights: Sequence[str], packages: Sequence[str]) -> str:
    lacking = "weights" if weights else "packages" if packages else ""
    return f"without its {lacking} a recipe cannot be measured" if lacking else ""


def _forecast(
    job: Job,
    ledger: Ledger | None,
    keys: Keys,
    planned: list[tuple[str, dict[str, Any]]],
    found: int,
    scan_seconds: float,
    preflight: bool,
) -> tuple[dict[str, Any] | None, str]:
    """What a run should take, from remembered rates or a pre-flight; or None, and why not."""
    from flows.restoration import NoPreflight, forecast, measure, size_of_row
    from flows.session import prefix_bits
    from infra.workers import ClusterError, ExecutorError

    if not planned:
        return None, ""
    settings, recipe, (digests, numerics) = job.load_settings(), job.load_recipe(), keys
    memory = forecast.Memory(settings, numerics, digests[COMMIT])
    rates = memory.recall(job.source)
    try:
        if preflight and (rates is None or rates.source != job.source):
            rates = memory.keep(measure(job, settings, recipe, [row for _, row in planned]))
    except (NoPreflight, ExecutorError, ClusterError) as error:
        return None, f"no pre-flight could be made: {error}"
    if rates is None:
        return None, "nothing was measured on this machine yet, and no pre-flight was wanted"
    told = foretell(
        rates,
        forecast.parts_of(((why, 1, size_of_row(row)) for why, row in planned), ledger, digests),
        Shape(len(planned), 1 << prefix_bits(found, settings), settings.shards_in_flight),
        prefect=None,
        scan=scan_seconds,
        price=settings.price_per_gpu_hour or None,
        assumed=forecast.assumptions(rates, job.source),
    )
    return told.told(), ""


def _work(
    ledger: Ledger | None, known: dict[str, Any], changes: list[dict[str, Any]], keys: Keys | None
) -> list[tuple[str, dict[str, Any]]]:
    """Reason and one inventory row of every image to be done; without keys nobody knows what is stale."""
    usable = {row["image_id"]: row for row in changes if row["present"] and not row["problem"]}
    if ledger is None:
        return [("new", row) for row in usable.values()]
    done = set(ledger.query("SELECT image_id FROM commits").column("image_id").to_pylist())
    fresh = {image_id: row for image_id, row in usable.items() if image_id not in done}
    work = {image_id: ("changed" if row["path"] in known else "new", row) for image_id, row in fresh.items()}
    by_id = {row["image_id"]: row for row in known.values()}
    if keys is not None:
        for row in ledger.plan(keys[0][COMMIT]).to_pylist():
            if row["image_id"] not in work:
                work[row["image_id"]] = (row["why"], by_id.get(row["image_id"], row))
    return list(work.values())


def _keys_of(recipe: Recipe, settings: Settings) -> Keys:
    from flows.session import present_weights, resolve_device

    numerics = recipe.numerics(resolve_device(settings))
    return recipe.digests(present_weights(recipe, settings), numerics), numerics


def _gone(changes: list[dict[str, Any]]) -> int:
    return sum(not row["present"] for row in changes)
