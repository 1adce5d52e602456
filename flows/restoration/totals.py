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


_TROUBLED = """
    SELECT path, coalesce(problem, c.reason_code) AS reason, left(coalesce(problem_text, c.reason), 300) AS said
    FROM inventory i LEFT JOIN commits c USING (image_id)
    WHERE i.present AND (problem IN (SELECT unnest(?::VARCHAR[])) OR
        problem IS NULL AND c.state IN ('failed_retryable', 'quarantined')) ORDER BY path LIMIT ?"""
TROUBLES = ("failed", "quarantined")


def troubled_files(ledger: Ledger, most: int) -> list[dict[str, str]]:
    """Files that failed or were quarantined, by the scan or later: path, code of the reason, the reason in words."""
    found_by_scan = [problem for problem, outcome in PROBLEMS.items() if outcome in TROUBLES]
    rows: list[dict[str, str]] = ledger.query(_TROUBLED, [found_by_scan, most]).to_pylist()
    return rows


def face_counts(ledger: Ledger) -> dict[str, int]:
    """Faces by outcome, over the present pictures; `found` is their sum."""
    held = ledger.faces()
    return {"found": sum(held.values())} | {outcome: held.get(outcome, 0) for outcome in books.OUTCOMES}
