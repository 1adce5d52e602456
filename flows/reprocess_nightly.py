"""Every night: what is new, changed, failed for now, or stale under the current recipe; nothing, fast, otherwise."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.gate import run_night
from flows.jobs import job_for
from flows.restoration import restore
from flows.session import Summary, ended


@flow(name="reprocess-nightly", flow_run_name="nightly", persist_result=False)
def reprocess_nightly(
    dataset: str | None = None,
    source: str | None = None,
    workspace: str | None = None,
    recipe: str | None = None,
    aligned: bool | None = None,
    include: list[str] | None = None,
    exclude: list[str] | None = None,
    settings: dict[str, Any] | None = None,
    gate: bool = True,
    again: bool = False,
) -> Summary | State[Summary]:
    """Plans from the ledger and restores what the plan names.

    It is the same story as restore-dataset, because resuming, retrying and reprocessing are one thing: the plan
    compares what the archive holds with what the ledger says was done under which recipe. When the plan is empty no
    worker is started. Results that a changed recipe would replace are replaced only within the bounds of the settings'
    table `promotion`; the older ones stay otherwise, and `mpsr rollback` takes a promotion back. `again` decides once
    more about what was kept; without `gate` every result is replaced, as restore-dataset does.
    """
    asked = locals()
    gate, again = asked.pop("gate"), asked.pop("again")
    job = job_for(**asked)
    return ended(run_night(job, again=again) if gate else restore(job))
