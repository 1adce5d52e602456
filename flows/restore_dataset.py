"""The flow: a data set, or a source and a workspace, as a job; the story itself is told in flows.restoration.story."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.jobs import job_for
from flows.restoration import restore
from flows.session import Summary, dated_name, ended


@flow(name="restore-dataset", flow_run_name=dated_name("restore", "source", "dataset"), persist_result=False)
def restore_dataset(
    dataset: str | None = None,
    source: str | None = None,
    workspace: str | None = None,
    files: list[str] | None = None,
    recipe: str | None = None,
    aligned: bool | None = None,
    include: list[str] | None = None,
    exclude: list[str] | None = None,
    retry: bool = False,
    stages: dict[str, dict[str, Any]] | None = None,
    settings: dict[str, Any] | None = None,
) -> Summary | State[Summary]:
    """Restores every face of a data set and accounts for every file.

    Name a data set of data_manifests/, or a `source` and a `workspace`. Running it again resumes: what is done is
    not done again, and a changed recipe reruns only what depends on the change.
    """
    return ended(restore(job_for(**locals())))
