"""What a watcher of the dashboard sees: progress, tables, summaries and links, published from the flow's process.

Logs from inside Ray workers never reach Prefect's server, so workers return data and this module publishes it. All of
it is a convenience: a dashboard that cannot be reached never stops a run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast
from uuid import UUID

from flows.restoration.totals import troubled_files
from flows.session import Summary, aside, in_words, never_fatal
from infra.ledger import Event

if TYPE_CHECKING:
    from flows.restoration.plan import Plan
    from flows.restoration.run import Run

_TOLD_OF_FORECAST = ("seconds", "low", "high", "took_seconds", "error_percent", "cost", "cost_of_run", "assumed")
_COUNTS = "Counts, rate and time to go"
_REPORT = "The static report of this run"
LAST_WORDS_SECONDS = 10.0
TOP = 25
"""Rows that a table shows at most; the ledger has them all."""


@dataclass
class Board:
    """What a run has put up so far: the ids of artifacts that are written anew, once they are there."""

    bar: UUID | None = None
    counts: UUID | None = None


@never_fatal
def plan(run: Run, work: Plan) -> None:
    """The plan as a table, the progress bar at zero, and the counts."""
    from prefect.artifacts import create_markdown_artifact, create_progress_artifact, create_table_artifact

    create_table_artifact(
        key="plan",
        table=[{"why": why, "images": n} for why, n in work.counts.items()],
        description=_what_is_to_be_done(run),
    )
    board = run.board
    board.bar = cast(UUID, create_progress_artifact(0.0, key="progress", description="stages and images passed"))
    board.counts = cast(UUID, create_markdown_artifact(key="counts", markdown=_counts(run), description=_COUNTS))


def progress(run: Run) -> None:
    """How far the run is, told beside the run: the bar, and counts, rate, time to go and the last failure."""
    aside.do(lambda: _progress(run, run.progress.fraction))


@never_fatal
def _progress(run: Run, fraction: float) -> None:
    from prefect.artifacts import update_progress_artifact
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import ArtifactUpdate

    if run.board.bar is not None:
        update_progress_artifact(run.board.bar, round(100 * fraction, 1))
    if run.board.counts is not None:
        with get_client(sync_client=True) as client:
            client.update_artifact(run.board.counts, ArtifactUpdate(data=_counts(run)))


@never_fatal
def finished(run: Run, summary: Summary, report: str) -> None:
    """The totals, the failures with their reasons, and where the report is; the totals in the flow's log, too."""
    from prefect import get_run_logger
    from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

    aside.wait(LAST_WORDS_SECONDS)
    _progress(run, 1.0)
    get_run_logger().info("%s; report: %s", in_words(summary), report)
    outcome_table = [{"outcome": name, "files": n} for name, n in summary.outcomes.items()]
    create_table_artifact(key="outcomes", table=outcome_table, description=f"{summary.found} files")
    failures = troubled_files(run.ledger, TOP)
    create_table_artifact(key="failures", table=failures, description=f"Failed and quarantined, at most {TOP}")
    if summary.forecast:
        told = [{"what": name, "value": getattr(summary.forecast, name)} for name in _TOLD_OF_FORECAST]
        create_table_artifact(key="forecast", table=told, description="What was forecast, and what it took")
    if report.startswith(("http://", "https://")):
        create_link_artifact(key="report", link=report, link_text="Report", description=_REPORT)
    else:  # a browser follows no link from a server to a disk
        create_markdown_artifact(key="report", markdown=f"Open in a browser: `{report}`", description=_REPORT)


def outcomes(events: Iterable[Event]) -> dict[str, int]:
    """state/reason → count: what a stage's task run returns."""
    return dict(Counter(f"{event.state}/{event.reason_code}" for event in events))


def _what_is_to_be_done(run: Run) -> str:
    told = run.course.forecast
    expected = f"; about {told.seconds / 60:.1f} min ({told.low / 60:.1f} to {told.high / 60:.1f})" if told else ""
    return f"What is to be done{expected}"


def _counts(run: Run) -> str:
    now = run.progress
    eta = "—" if now.eta_seconds is None else f"{now.eta_seconds / 60:.1f} min"
    lines = [
        f"**{now.done} of {now.images} images**, {now.rate:.2f} images/s, {eta} to go",
        "",
        "| outcome | images |",
        "|---|---|",
        *(f"| {name} | {n} |" for name, n in now.outcomes.most_common()),
        "",
        "| stage | items | reused | failed | items/s |",
        "|---|---|---|---|---|",
        *(f"| {name} | {s.done} | {s.reused} | {s.failed} | {s.rate:.1f} |" for name, s in now.stages.items()),
    ]
    if now.last_failure:
        said = " ".join(now.last_failure[:500].split()).replace("`", "'")
        lines += ["", f"Last failure: `{said}`"]
    return "\n".join(lines)
