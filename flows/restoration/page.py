"""Fills the static report from the ledger and from what the run wrote down about itself."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Literal

from flows.jobs import workspace_at
from flows.restoration.totals import PROBLEMS
from flows.session import RunFacts, Summary, facts_of_run, last_run_facts
from infra.ledger import Histories, Ledger
from infra.storage import Storage, decode_name
from tasks.recipes import COMMIT

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flows.restoration.run import Run
    from tasks.pages.run import PixelLoader
    from tasks.pages.shared import RunFacts as ShownFacts
    from tasks.stage import Pixels

REPORT = "report/index.html"
_TROUBLED = """problem IN (SELECT unnest(?::VARCHAR[]))
    OR problem IS NULL AND outcome IN (SELECT unnest(?::VARCHAR[]))"""
"""A file that a person should look at is on the page, whatever the archive."""


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
    from tasks.pages.run import TROUBLES, collect_run, write_report

    troubled = [problem for problem, outcome in PROBLEMS.items() if outcome in TROUBLES]
    histories = Histories(ledger, _TROUBLED, [troubled, TROUBLES])
    data = collect_run(run_facts(facts), ledger.books(PROBLEMS), ledger.faces(), histories)
    pixels = _pixel_loader(Storage(facts.job.source), workspace) if thumbnails else None
    page = write_report(data, histories, workspace, pixels)
    return str(workspace.local_path(page)) if workspace.is_local else f"{workspace.shown_url}/{page}"


def run_facts(facts: RunFacts) -> ShownFacts:
    """What a run wrote down about itself, as its report tells it."""
    from tasks.pages.shared import RunFacts as ShownFacts

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
