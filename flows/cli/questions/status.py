"""`mpsr status` and `mpsr clean`: what a workspace holds, and what it may forget."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from flows.gate import every as every_promotion
from flows.jobs import JobError
from flows.restoration import PROBLEMS, face_counts
from flows.session import last_run_facts
from infra.ledger import Lease, Ledger, holder_of
from infra.storage import Storage
from tasks.archive import books
from tasks.recipes import COMMIT

if TYPE_CHECKING:
    from infra.ledger import Cleaning

_TROUBLES = """
    SELECT path, coalesce(problem, c.reason_code) AS reason, coalesce(problem_text, c.reason) AS said
    FROM inventory i LEFT JOIN commits c USING (image_id)
    WHERE i.present AND (i.problem IS NOT NULL OR c.state IN ('failed_retryable', 'quarantined')) ORDER BY path"""


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


def clean_workspace(workspace: str, older_than_days: float, keep_snapshots: int, dry_run: bool) -> dict[str, Any]:
    """Applies the retention policy under the workspace's lease; returns what was (or would be) freed."""
    from infra.ledger import Policy, clean

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


def _ledger(storage: Storage) -> Ledger:
    if not storage.exists("_format.json"):
        raise JobError(f"expected a workspace, got {storage.shown_url}, which holds no ledger; `mpsr run` makes one")
    return Ledger.open(storage, create=False)
