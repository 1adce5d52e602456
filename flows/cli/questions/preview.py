"""What a run would do and need, and what an archive holds, before anything is written."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flows.jobs import Job, insist_on_folder, known_of, looked_at, refuse_secrets
from infra import extras
from infra.facts import Facts
from infra.ledger import COMMIT, FileRow, Ledger
from infra.storage import Storage
from infra.weights import WeightsRow, open_store, weights_row
from tasks.archive import scan_archive
from tasks.pictures import Limits
from tasks.recipes import Forecast, foretell, gpu_memory

if TYPE_CHECKING:
    import pyarrow as pa

    from flows.restoration import Plan
    from flows.session import Prepared
    from infra.settings import Settings


class Preview(Facts):
    """What `mpsr plan` says; `--json` prints it as it is."""

    found: int
    images: int
    """To be done."""
    why: dict[str, int]
    problems: dict[str, int]
    """Files that cannot be used, by reason."""
    gone: int
    """Files that were there at the last scan."""
    recipe: str
    stages: list[str]
    gpu_memory: str
    """Of one worker where it computes on a GPU, in words."""
    extras_missing: list[str]
    weights_missing: list[WeightsRow]
    output_bytes: int
    intermediates_bytes: int
    free_bytes: int | None
    fits: bool
    seconds: float | None
    forecast: Forecast | None
    no_forecast: str
    """Why there is none."""


def scan_counts(source: str, include: tuple[str, ...], exclude: tuple[str, ...]) -> dict[str, int]:
    """How many files, of which formats, and what cannot be used and why. Raises JobError without a source."""
    refuse_secrets(source)
    counts: Counter[str] = Counter()
    total = 0
    for row in scan_archive(insist_on_folder(source, "pictures"), {}, include=include, exclude=exclude):
        counts[row.problem or row.format or "?"] += 1
        total += row.bytes or 0
    return {"found": counts.total(), "bytes": total, **dict(counts.most_common())}


def preview(job: Job, *, preflight: bool = True) -> Preview:
    """What `run` would do, and what it would need; writes to neither archive nor workspace.

    With `preflight` a few pictures are measured where nothing is known yet of this recipe, machine and archive.
    """
    from flows.restoration import PROBLEMS, plan_of
    from flows.session import prepare

    insist_on_folder(job.source, "pictures")
    settings, recipe, workspace = job.load_settings(), job.load_recipe(), Storage(job.workspace)
    store = open_store(settings.weights_dir, settings.weights_table)
    weights = sorted({n for s in recipe.stages for n in s.weights if not store.status(n).present})
    packages = extras.missing(extra for stage in recipe.stages for extra in stage.extras)
    prepared = None if weights or packages else prepare(job)
    with _ledger_of(workspace) as held:
        began = time.monotonic()
        ledger = held.with_news(_news(job, settings, workspace, held))
        scanned = time.monotonic() - began
        plan = plan_of(ledger, prepared.digests[COMMIT] if prepared else None, settings)
        forecast, unknown = None, f"without its {'weights' if weights else 'packages'} a recipe cannot be measured"
        if prepared:
            forecast, unknown = _forecast(prepared, plan, ledger, scanned, preflight)
        books, problems = ledger.books(PROBLEMS), ledger.query(_PROBLEMS).to_pydict()
    free, output = workspace.free_bytes(), plan.output_bytes
    return Preview(
        found=books.found,
        images=plan.images,
        why=dict(plan.counts),
        problems=dict(zip(problems["problem"], problems["files"], strict=True)),
        gone=_gone(ledger.news),
        recipe=recipe.name,
        stages=[stage.id for stage in recipe.stages],
        gpu_memory=str(gpu_memory(recipe)),
        extras_missing=packages,
        weights_missing=[weights_row(store, name) for name in weights],
        output_bytes=output,
        intermediates_bytes=int(settings.keep_intermediates_gb * 1e9),
        free_bytes=free,
        fits=free is None or free > output,
        seconds=forecast.seconds if forecast else None,
        forecast=forecast,
        no_forecast=unknown,
    )


@contextmanager
def _ledger_of(workspace: Storage) -> Iterator[Ledger]:
    """The workspace's ledger; where there is none yet an empty one, which goes again."""
    if workspace.exists("_format.json"):
        yield Ledger.open(workspace, create=False)
        return
    with tempfile.TemporaryDirectory(prefix="mpsr-plan-") as folder:
        yield Ledger.open(Storage(folder), buckets=1)


def _news(job: Job, settings: Settings, workspace: Storage, ledger: Ledger) -> Iterator[FileRow]:
    """What a scan would write."""
    source, limits = looked_at(job, Storage(job.source, apart=workspace)), Limits(max_pixels=settings.max_pixels)
    return scan_archive(source, known_of(job, ledger), include=job.include, exclude=job.exclude, limits=limits)


def _gone(news: pa.Table | None) -> int:
    import pyarrow.compute as pc

    return 0 if news is None else int(pc.sum(pc.invert(news["present"])).as_py() or 0)


def _forecast(
    prepared: Prepared, plan: Plan, ledger: Ledger, scanned: float, preflight: bool
) -> tuple[Forecast | None, str]:
    """What a run should take, from remembered rates or a pre-flight; or None, and why not."""
    from flows.restoration import NoPreflight, forecast, measure
    from infra.workers import ClusterError, ExecutorError

    if not plan.images:
        return None, ""
    memory, source = forecast.memory_of(prepared), prepared.job.source
    rates = memory.recall(source)
    try:
        if preflight and (rates is None or rates.source != source):
            rates = memory.keep(measure(prepared, plan, ledger))
    except (NoPreflight, ExecutorError, ClusterError) as error:
        return None, f"no pre-flight could be made: {error}"
    if rates is None:
        return None, "nothing was measured on this machine yet, and no pre-flight was wanted"
    told = foretell(
        rates,
        forecast.parts_of(plan, ledger, prepared.digests),
        forecast.shape_of(plan, prepared.settings),
        prefect=None,
        scan=scanned,
        price=prepared.settings.price_per_gpu_hour or None,
        assumed=forecast.assumptions(rates, source),
    )
    return told, ""


_PROBLEMS = """
    SELECT problem, count(*) AS files FROM inventory WHERE present AND problem IS NOT NULL
    GROUP BY 1 ORDER BY 2 DESC, 1"""
