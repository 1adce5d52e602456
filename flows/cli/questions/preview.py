"""Questions about an archive or a workspace, answered from scan and ledger without changing anything (but `clean`)."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.cli.words.weights import weights_row
from flows.gate.journal import digests_of_run
from flows.gate.journal import every as every_promotion
from flows.jobs.restoration import Job, JobError
from flows.restoration.page import last_run_facts
from flows.restoration.plan import PROBLEMS, face_counts
from infra import extras
from infra.ledger.lease import Lease, holder_of
from infra.ledger.ledger import Ledger
from infra.storage.storage import Storage, encode_name
from infra.weights.store import open_store
from tasks.archive import books
from tasks.archive.scan import scan
from tasks.pictures.codec import Limits
from tasks.recipes.forecast import Shape, foretell
from tasks.recipes.recipe import COMMIT

if TYPE_CHECKING:
    from infra.ledger.retention import Cleaning
    from infra.settings import Settings
    from tasks.recipes.recipe import Recipe

RESTORED = "restored"
Keys = tuple[dict[str, str], str]
"""The digests of a recipe's stages with the weights that are here, and where and in what it computes."""
OUTPUT_PER_INPUT = 1.3
"""Bytes of restored files per byte of input, with room to spare; what is known better comes from the ledger."""


def scan_counts(source: str, include: tuple[str, ...], exclude: tuple[str, ...]) -> dict[str, Any]:
    """How many files, of which formats, and what cannot be used and why. Raises StorageMissing without a source."""
    counts: Counter[str] = Counter()
    total = 0
    for row in scan(Storage(source), {}, include=include, exclude=exclude):
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
    changes = list(scan(source, known, include=job.include, exclude=job.exclude, limits=limits))
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


def workspace_status(workspace: str, reasons: bool) -> dict[str, Any]:
    """Outcomes that add up, who is running, when the last run was."""
    storage = Storage(workspace)
    ledger = _ledger(storage)
    holder, facts, promotions = holder_of(storage), last_run_facts(storage), every_promotion(storage)
    held = ledger.books(PROBLEMS, facts["digests"][COMMIT])
    data = {
        "schema": 1,
        "workspace": storage.shown_url,
        "found": held.found,
        "outcomes": {name: held.outcomes.get(name, 0) for name in books.OUTCOMES},
        "reasons": dict(sorted(held.reasons.items())),
        "faces": face_counts(ledger),
        "running": None if holder is None else {"run_id": holder.owner, "host": holder.host, "pid": holder.pid},
        "last_run": {"run_id": facts["run_id"], "started": facts["started"], "finished": facts.get("finished", False)},
        "illegal_transitions": ledger.illegal_transitions(),
        "last_promotion": promotions[-1].told() if promotions else None,
    }
    if reasons:
        data["files"] = ledger.query(_TROUBLES).to_pylist()
    return data


def last_job(workspace: str) -> Job:
    """The job of a workspace's last run. Raises JobError where none ever ran."""
    try:
        return Job.model_validate(last_run_facts(Storage(workspace))["job"])
    except (LookupError, OSError) as error:
        raise JobError(f"expected a workspace in which something ran: {error}") from None


def explain(file: str, workspace: str | None) -> dict[str, Any]:
    """Everything the ledger knows of one file. Raises JobError when it knows nothing."""
    storage, path = _locate(file, workspace)
    ledger = _ledger(storage)
    found = ledger.query("SELECT * FROM inventory WHERE path = ?", [path]).to_pylist()
    if not found:
        raise JobError(
            f"the ledger of {storage.shown_url} knows no file {path!r}; give its path relative to the archive"
        )
    file_row = found[0]
    every = ledger.latest(image_ids=[file_row["image_id"]]).to_pylist()
    verdict = next((_told(row) for row in every if row["stage"] == COMMIT), None)
    digests = _digests_behind(storage, verdict)
    rows = [row for row in every if row["stage_digest"] in digests or row["stage"] == COMMIT]
    runs = {row["run_id"] for row in rows}
    return {
        "schema": 1,
        "path": path,
        "input": {
            k: file_row[k] for k in ("image_id", "bytes", "format", "width", "height", "problem", "problem_text")
        },
        "verdict": verdict,
        "promotion": _promotion(verdict),
        "stages": [_told(row) for row in sorted(rows, key=_order(storage, rows)) if row["stage"] != COMMIT],
        "runs": {run_id: _run(storage, run_id) for run_id in sorted(runs)},
    }


def clean_workspace(workspace: str, older_than_days: float, keep_snapshots: int, dry_run: bool) -> dict[str, Any]:
    """Applies the retention policy under the workspace's lease; returns what was (or would be) freed."""
    from infra.ledger.retention import Policy, clean

    storage = Storage(workspace)
    ledger = _ledger(storage)
    policy = Policy(intermediates_days=older_than_days, keep_snapshots=keep_snapshots)
    if dry_run:
        return _freed(clean(ledger, policy, dry_run=True))
    with Lease.acquire(storage, owner=f"clean-{int(time.time())}"):
        return _freed(clean(ledger, policy))


def _freed(cleaning: Cleaning) -> dict[str, Any]:
    return {f"{item.what}, bytes": item.bytes for item in cleaning.items} | {
        "files": cleaning.files,
        "bytes": cleaning.bytes,
    }


def file_outcomes(ledger: Ledger) -> dict[str, str]:
    """path → outcome of every present file."""
    table = ledger.query(
        "SELECT path, problem, outcome FROM inventory LEFT JOIN commits USING (image_id) WHERE present ORDER BY path"
    )
    return {
        row["path"]: PROBLEMS[row["problem"]] if row["problem"] else row["outcome"] or "pending"
        for row in table.to_pylist()
    }


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
    from flows.restoration import forecast
    from flows.restoration.plan import prefix_bits
    from flows.restoration.rehearsal import NoPreflight, measure, size_of_row
    from infra.workers.cluster import ClusterError
    from infra.workers.executor import ExecutorError

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
    from flows.restoration.run import present_weights, resolve_device

    numerics = recipe.numerics(resolve_device(settings))
    return recipe.digests(present_weights(recipe, settings), numerics), numerics


def _gone(changes: list[dict[str, Any]]) -> int:
    return sum(not row["present"] for row in changes)


def _ledger(storage: Storage) -> Ledger:
    if not storage.exists("_format.json"):
        raise JobError(f"expected a workspace, got {storage.shown_url}, which holds no ledger; `mpsr run` makes one")
    return Ledger.open(storage, create=False)


def _locate(file: str, workspace: str | None) -> tuple[Storage, str]:
    """The workspace and the ledger's path of a restored file, or of a path relative to the archive."""
    if workspace is None:
        whole = Path(file).absolute()
        for parent in whole.parents:
            if parent.name == RESTORED and (parent.parent / "_format.json").is_file():
                return Storage(parent.parent), encode_name(whole.relative_to(parent).as_posix())
        raise JobError(f"{file} lies in no workspace's restored tree; give --workspace DIR and a path of the archive")
    storage = Storage(workspace)
    if storage.is_local and Path(file).absolute().is_relative_to(storage.local_path(RESTORED)):
        return storage, encode_name(Path(file).absolute().relative_to(storage.local_path(RESTORED)).as_posix())
    return storage, encode_name(file.removeprefix(f"{RESTORED}/"))


def _digests_behind(storage: Storage, verdict: dict[str, Any] | None) -> set[str]:
    """The stages' digests of the run that made what a verdict is about, which may be older than the verdict."""
    made_in = verdict and digests_of_run(storage, verdict["detail"].get("made_in", verdict["run_id"]))
    return set((made_in or last_run_facts(storage)["digests"]).values())


def _promotion(verdict: dict[str, Any] | None) -> dict[str, Any] | None:
    """What the nightly gate did with a file, in which promotion and why; None where it never came into it."""
    detail = verdict["detail"] if verdict else {}
    if "promotion" not in detail:
        return None
    marks = ("rolled_back", "promoted", "kept", "taken")
    did = next((mark.replace("_", " ") for mark in marks if detail.get(mark)), "original")
    return {"id": detail["promotion"], "did": did, "why": detail.get("why"), "made_in": detail.get("made_in")}


def _told(row: dict[str, Any]) -> dict[str, Any]:
    names = ("stage", "face", "state", "reason_code", "reason", "stage_key", "run_id", "worker", "attempt", "device_ms")
    told = {name: row[name] for name in names}
    told |= {"metrics": dict(row["metrics"] or {}), "detail": json.loads(row["detail"] or "{}")}
    return told | {"output": row["output_uri"], "output_sha256": row["output_sha256"], "finished": row["finished"]}


def _order(storage: Storage, rows: list[dict[str, Any]]) -> Callable[[dict[str, Any]], tuple[int, int]]:
    facts = _run(storage, rows[0]["run_id"]) if rows else {}
    places = {stage["id"]: n for n, stage in enumerate(facts.get("recipe", {}).get("stage", []))}
    return lambda row: (places.get(row["stage"], len(places)), row["face"])


def _run(storage: Storage, run_id: str) -> dict[str, Any]:
    path = f"runs/{run_id}.json"
    facts: dict[str, Any] = json.loads(storage.read_bytes(path)) if storage.exists(path) else {}
    return {k: facts[k] for k in ("recipe", "weights", "software", "device", "host", "started") if k in facts}


_TROUBLES = """
    SELECT path, coalesce(problem, c.reason_code) AS reason, coalesce(problem_text, c.reason) AS said
    FROM inventory i LEFT JOIN commits c USING (image_id)
    WHERE i.present AND (i.problem IS NOT NULL OR c.state IN ('failed_retryable', 'quarantined')) ORDER BY path"""
