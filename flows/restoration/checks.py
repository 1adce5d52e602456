"""What can be known of a job before anything is started or written: said at once, in one sentence."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from flows.jobs import Job, JobError, insist_on_folder, reachable
from flows.session import Prepared, last_run_facts, prepare
from infra.ledger import Lease, Ledger
from infra.storage import Storage, decode_name
from tasks.worker import RESTORED

if TYPE_CHECKING:
    from flows.restoration.plan import Plan

LEAST_FREE = 200_000_000
"""Bytes without which nothing can be restored: ledger, report, and the intermediates of a few faces."""


def check(job: Job) -> Prepared:
    """What the job stands on.

    Raises JobError, RecipeError, SettingsError, WeightsError, ExtraMissing, LedgerUnreadable.
    """
    prepared = prepare(job)
    source, workspace = insist_on_folder(job.source, "pictures"), Storage(job.workspace)
    _refuse_missing(job, source)
    _refuse_unwritable(workspace)
    with reachable(workspace):
        _refuse_foreign(job, workspace)
        _refuse_full(workspace)
    return prepared


def refuse_busy(job: Job) -> None:
    """Raises WorkspaceBusy where another run holds the workspace."""
    workspace = Storage(job.workspace)
    if workspace.exists("_format.json"):
        Lease.acquire(workspace, owner="look").release()


def _refuse_missing(job: Job, source: Storage) -> None:
    for name in job.files:
        if not source.exists(decode_name(name)):
            raise JobError(f"there is no picture {name} in {source.shown_url}")


def _refuse_unwritable(workspace: Storage) -> None:
    """A folder on this machine's disk; an object store says so itself when the lease is taken."""
    if not workspace.is_local:
        return
    folder = Path(workspace.url)
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        raise JobError(f"expected a folder for the workspace, got {folder}, where {there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise JobError(f"the workspace {folder} cannot be written: no permission in {there}; choose another folder")


def _refuse_foreign(job: Job, workspace: Storage) -> None:
    """What lies in the workspace is of our making, whole, and of the same pictures."""
    if workspace.exists("_format.json"):
        Ledger.open(workspace, create=False)
        _refuse_another_archive(job, workspace)
    elif workspace.exists(RESTORED):
        raise JobError(
            f"{workspace.shown_url} holds a folder {RESTORED!r} that no run of ours made; "
            "nothing is overwritten, so choose another workspace"
        )


def _refuse_another_archive(job: Job, workspace: Storage) -> None:
    """Single pictures of two folders may have one name, and the later result would take the place of the earlier."""
    if job.files and workspace.exists("runs"):
        before = last_run_facts(workspace).job.source
        if before != job.source:
            raise JobError(
                f"{workspace.shown_url} holds pictures of {Storage(before).shown_url}; "
                f"choose another folder for those of {Storage(job.source).shown_url}"
            )


def refuse_too_small(plan: Plan, workspace: Storage) -> None:
    """Raises JobError where the restored files will not fit: nothing is worked on for nothing."""
    free, needed = workspace.free_bytes(), plan.output_bytes
    if free is not None and free < needed:
        raise JobError(
            f"the restored files take about {needed / 1e9:.2f} GB, and only {free / 1e9:.2f} GB are free for "
            f"{workspace.shown_url}; make room, choose another workspace, or take a part with --include"
        )


def _refuse_full(workspace: Storage) -> None:
    free = workspace.free_bytes()
    if free is not None and free < LEAST_FREE:
        raise JobError(
            f"only {free / 1e6:.0f} MB are free for {workspace.shown_url}; expected at least {LEAST_FREE / 1e6:.0f} MB"
        )
