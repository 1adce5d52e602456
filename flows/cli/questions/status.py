"""`mpsr status`, `clean`, `repair`: what a workspace holds, what it may forget, what of it can be put right."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from flows.gate import every as every_promotion
from flows.jobs import workspace_at
from flows.restoration import PROBLEMS, face_counts
from flows.session import Balance, last_run_facts
from infra.facts import Record
from infra.ledger import Lease, Ledger, holder_of
from tasks.archive import books
from tasks.comparing import PromotionTold
from tasks.recipes import COMMIT

if TYPE_CHECKING:
    from flows.restoration import Repair
    from infra.ledger import Cleaning

_TROUBLES = """
    SELECT path, coalesce(problem, c.reason_code) AS reason, coalesce(problem_text, c.reason) AS said
    FROM inventory i LEFT JOIN commits c USING (image_id)
    WHERE i.present AND (i.problem IS NOT NULL OR c.state IN ('failed_retryable', 'quarantined')) ORDER BY path"""


class Running(Record):
    """Who is at work: a process on a host."""

    run_id: str
    host: str
    pid: int


class LastRun(Record):
    """The run that began last. started: ISO 8601."""

    run_id: str
    started: str
    finished: bool


class Trouble(Record):
    """A file that could not be used or was given up, the code of the reason, and the reason in words."""

    path: str
    reason: str
    said: str | None


class Status(Balance):
    """What a workspace holds. files: those with a problem; None where nobody asked."""

    workspace: str
    running: Running | None
    last_run: LastRun
    last_promotion: PromotionTold | None
    files: list[Trouble] | None


def workspace_status(workspace: str, reasons: bool) -> Status:
    """Outcomes that add up, who is running, when the last run was; with `reasons` also every file with a problem."""
    storage = workspace_at(workspace)
    ledger = Ledger.open(storage, create=False)
    holder, facts, promotions = holder_of(storage), last_run_facts(storage), every_promotion(storage)
    held = ledger.books(PROBLEMS, facts.digests[COMMIT])
    return Status(
        workspace=storage.shown_url,
        found=held.found,
        outcomes={name: held.outcomes.get(name, 0) for name in books.OUTCOMES},
        reasons=dict(sorted(held.reasons.items())),
        faces=face_counts(ledger),
        running=Running(run_id=holder.owner, host=holder.host, pid=holder.pid) if holder else None,
        last_run=LastRun.model_validate(facts, from_attributes=True),
        last_promotion=promotions[-1].told() if promotions else None,
        files=[Trouble.model_validate(row) for row in ledger.query(_TROUBLES).to_pylist()] if reasons else None,
    )


def clean_workspace(workspace: str, older_than_days: float, keep_snapshots: int, dry_run: bool) -> dict[str, int]:
    """Applies the retention policy under the workspace's lease; returns what was (or would be) freed."""
    from infra.ledger import Policy, clean

    storage = workspace_at(workspace)
    ledger = Ledger.open(storage, create=False)
    policy = Policy(intermediates_days=older_than_days, keep_snapshots=keep_snapshots)
    if dry_run:
        return _freed(clean(ledger, policy, dry_run=True))
    with Lease.acquire(storage, owner=f"clean-{int(time.time())}"):
        return _freed(clean(ledger, policy))


def repair_workspace(workspace: str) -> Repair:
    """Puts right what can be, under the workspace's lease."""
    from flows.restoration import repair

    storage = workspace_at(workspace)
    with Lease.acquire(storage, owner=f"repair-{int(time.time())}"):
        return repair(storage)


def _freed(cleaning: Cleaning) -> dict[str, int]:
    return {f"{item.what}, bytes": item.bytes for item in cleaning.items} | {
        "files": cleaning.files,
        "bytes": cleaning.bytes,
    }
