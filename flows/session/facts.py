"""What runs wrote down about themselves (`runs/<id>.json`): the last job, its facts, the digests behind a result."""

from __future__ import annotations

import json
from typing import Any

from flows.jobs import Job, JobError
from infra.storage import Storage


def last_job(workspace: str) -> Job:
    """The job of a workspace's last run. Raises JobError where none ever ran."""
    try:
        return Job.model_validate(last_run_facts(Storage(workspace))["job"])
    except (LookupError, OSError) as error:
        raise JobError(f"expected a workspace in which something ran: {error}") from None


def last_run_facts(storage: Storage) -> dict[str, Any]:
    """What the latest run wrote down about itself. Raises LookupError where none ever ran."""
    runs = sorted(info.path for info in storage.walk("runs") if info.path.endswith(".json"))
    if not runs:
        raise LookupError(f"nothing ever ran in {storage.shown_url}")
    facts: dict[str, Any] = json.loads(storage.read_bytes(runs[-1]))
    return facts


def digests_of_run(storage: Storage, run_id: str) -> dict[str, str]:
    """Stage → digest, as the run wrote them down; nothing where it did not."""
    path = f"runs/{run_id}.json"
    digests: dict[str, str] = json.loads(storage.read_bytes(path))["digests"] if storage.exists(path) else {}
    return digests
