"""Fills the static report from the ledger and from what the run wrote down about itself."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Literal

from flows.jobs import workspace_at
from flows.session import RunFacts, Summary, facts_of_run, last_run_facts
from infra.ledger import Ledger
from infra.storage import Storage, decode_name
from tasks.recipes import COMMIT

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from flows.restoration.run import Run
    from tasks.pages.run import PixelLoader
    from tasks.pages.run import RunFacts as ShownFacts
    from tasks.stage import Pixels

REPORT = "report/index.html"
SAMPLE_FROM = 200_000
"""Images above which stage rows are sampled; ids are hashes, so a range of them is a fair sample."""


def write_run_report(run: Run) -> str:
    """Writes the report of a run that has just finished; returns the address of the page."""
    facts = facts_of_run(run.workspace, run.id) or run.facts()
    return _write(run.workspace, run.ledger, facts, run.settings.report_thumbnails)


def rewrite_report(workspace: str, thumbnails: bool | None) -> str:
    """Writes the report of a workspace's last run anew, by default with pictures only if that run had them."""
    storage = workspace_at(workspace)
    facts = last_run_facts(storage)
    shown = facts.with_pictures if thumbnails is None else thumbnails
    return _write(storage, Ledger.open(storage, create=False), facts, shown)


def _write(workspace: Storage, ledger: Ledger, facts: RunFacts, thumbnails: bool) -> str:
    from tasks.pages.run import collect_run, write_report

    sample, rows = sampled_rows(ledger)
    data = collect_run(run_facts(facts, sample), *rows)
    pixels = _pixel_loader(Storage(facts.job.source), workspace)
    page = write_report(data, workspace, thumbnails=thumbnails, load_pixels=pixels if thumbnails else None)
    return str(workspace.local_path(page)) if workspace.is_local else f"{workspace.shown_url}/{page}"


def sampled_rows(ledger: Ledger) -> tuple[float, tuple[pa.Table, pa.Table, pa.Table]]:
    """Inventory, verdicts and stage rows; and the share of the images whose stage rows they are."""
    share = min(1.0, SAMPLE_FROM / max(sum(ledger.counts().values()), 1))
    below = f"{min(int(share * 16**8), 16**8 - 1):08x}g"  # 'g' sorts behind every hexadecimal digit
    stages = ledger.query("SELECT * FROM latest WHERE stage <> ? AND image_id < ?", [COMMIT, below])
    return share, (ledger.files(gone=True), ledger.query("SELECT * FROM commits"), stages)


def run_facts(facts: RunFacts, sample: float) -> ShownFacts:
    """What a run wrote down about itself, as its report tells it."""
    from tasks.pages.run import RunFacts as ShownFacts

    summary = facts.summary or Summary()
    return ShownFacts(
        run_id=facts.run_id,
        source=Storage(facts.job.source).shown_url,
        workspace=Storage(facts.job.workspace).shown_url,
        recipe=facts.recipe.name,
        recipe_digest=facts.digests[COMMIT],
        description=facts.recipe.description,
        started=datetime.fromisoformat(facts.started),
        finished=datetime.fromisoformat(facts.finished_at) if facts.finished_at else None,
        seconds=summary.seconds,
        stages=[stage.id for stage in facts.recipe.stage],
        stage_seconds={name: stage.seconds for name, stage in summary.stages.items()},
        weights=facts.weights,
        links=facts.links,
        software=facts.software,
        device=facts.device,
        sample=sample,
    )


def _pixel_loader(source: Storage, workspace: Storage) -> PixelLoader:
    def load(where: Literal["source", "workspace"], path: str) -> NDArray[np.uint8]:
        return shown_pixels(source if where == "source" else workspace, path)

    return load


def shown_pixels(storage: Storage, path: str) -> NDArray[np.uint8]:
    """The upright picture at a ledger name, (H, W, 3)."""
    from tasks.pictures import decode

    return levels(decode(storage.read_bytes(decode_name(path))).pixels)


def levels(pixels: Pixels) -> NDArray[np.uint8]:
    """[0, 1] → 0 … 255, rounded."""
    import numpy as np

    shown: NDArray[np.uint8] = (pixels.clip(0, 1) * 255 + 0.5).astype(np.uint8)
    return shown
