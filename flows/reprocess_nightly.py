"""Every night: what is new, changed, failed for now, or stale under the current recipe; nothing, fast, otherwise."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.restore_dataset import restore_dataset


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
) -> dict[str, Any]:
    """Plans from the ledger and restores what the plan names.

    It is the same story as restore-dataset, because resuming, retrying and reprocessing are one thing: the plan
    compares what the archive holds with what the ledger says was done under which recipe. When the plan is empty no
    worker is started.
    """
    story = restore_dataset.fn
    return story(dataset, source, workspace, recipe, aligned, include, exclude, False, None, settings)
