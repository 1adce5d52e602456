"""What a workspace adds up to: files by outcome, faces, stages, problems."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from flows.session import StageTotal, Summary
from infra.ledger import Ledger
from tasks.archive import books

if TYPE_CHECKING:
    from flows.restoration.run import Run

PROBLEMS: dict[str, str] = {code: outcome for code, (outcome, _) in books.REASONS.items()}


def file_outcomes(ledger: Ledger) -> dict[str, str]:
    """path → outcome of every present file."""
    table = ledger.query(
        "SELECT path, problem, outcome FROM inventory LEFT JOIN commits USING (image_id) WHERE present ORDER BY path"
    )
    return {
        row["path"]: PROBLEMS[row["problem"]] if row["problem"] else row["outcome"] or "pending"
        for row in table.to_pylist()
    }


def summary(run: Run) -> Summary:
    """The run's totals so far."""
    held = run.ledger.books(PROBLEMS)
    return Summary(
        run_id=run.id,
        found=held.found,
        outcomes={name: held.outcomes.get(name, 0) for name in books.OUTCOMES},
        reasons=dict(sorted(held.reasons.items())),
        faces=face_counts(run.ledger),
        seconds=round(time.time() - run.session.started, 3),
        startup_seconds=run.startup_seconds and round(run.startup_seconds, 3),
        stages={
            name: StageTotal(items=s.done, reused=s.reused, failed=s.failed, seconds=round(s.device_seconds, 3))
            for name, s in run.progress.stages.items()
        },
    )


def face_counts(ledger: Ledger) -> dict[str, int]:
    """Faces by outcome, over the present pictures; `found` is their sum."""
    held = ledger.faces()
    return {"found": sum(held.values())} | {outcome: held.get(outcome, 0) for outcome in books.OUTCOMES}
