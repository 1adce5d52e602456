"""The candidate: a workspace inside the workspace, in which a changed recipe restores what it would replace.

It has a ledger and a lease of its own, so that it resumes like any other; its inventory is handed over, so that no
file of the archive is looked at twice; intermediates that are still true are shared as second names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING

from flows.gate.journal import CANDIDATES
from flows.restoration import Plan, Run, open_run, plan_work, restore_shards
from flows.session import GIGABYTE, step
from infra.ledger import FileRow, Ledger, files_of, known_files, listing
from infra.storage import Storage
from tasks.recipes import COMMIT

if TYPE_CHECKING:
    import pyarrow as pa

INTERMEDIATES = "intermediates"
HANDED_OVER = ("path", "image_id", "bytes", "mtime_ns", "etag", "format", "width", "height", "mode", "problem")
AT_ONCE = 50_000
"""Inventory rows per segment."""


@step("restore beside")
def restore_beside(run: Run, work: Plan) -> Run:
    """Restores what is to be done into a candidate workspace; one that is there from an earlier night goes on."""
    place = f"{CANDIDATES}/{run.digests[COMMIT][:12]}"
    _forget_others(run.workspace, place)
    job = run.job.model_copy(update={"workspace": f"{run.workspace.url.rstrip('/')}/{place}", "retry": False})
    Ledger.open(Storage(job.workspace), buckets=run.ledger.buckets)
    with open_run(job, run.progress) as candidate:
        _hand_over(run, work, candidate)
        still_true = {f"{stage}-{digest[:16]}" for stage, digest in run.digests.items()}
        share_intermediates(run.workspace, "", f"{place}/", still_true)
        plan = plan_work(candidate)
        if plan.images:
            with candidate.workers(plan.images):
                restore_shards(candidate, plan)
        candidate.ledger.fold()
        candidate.write_facts(finished=True, finished_at=datetime.now(UTC).isoformat())
    return candidate


def forget(workspace: Storage, place: str) -> None:
    """Deletes a candidate; its mark as a workspace goes first, so that what a crash leaves is no candidate."""
    workspace.delete(f"{place}/_format.json")
    workspace.delete_tree(place)


def share_intermediates(
    storage: Storage, source: str, target: str, folders: Collection[str] | None = None, room: float | None = None
) -> None:
    """Gives intermediates below one prefix a second name below another, on local disks, where it costs nothing.

    folders: only these. room: GB that the target may hold.
    """
    if not storage.is_local:
        return
    held = {info.path.removeprefix(target): info.bytes or 0 for info in listing(storage, f"{target}{INTERMEDIATES}")}
    total = sum(held.values())
    for info in listing(storage, f"{source}{INTERMEDIATES}"):
        path = info.path.removeprefix(source)
        if path in held or (folders is not None and path.split("/")[1] not in folders):
            continue
        total += info.bytes or 0
        if room is not None and total > room * GIGABYTE:
            return
        storage.copy(info.path, f"{target}{path}")


def _forget_others(workspace: Storage, place: str) -> None:
    """Leaves the candidate of this recipe alone, if it is whole."""
    for name in {"/".join(info.path.split("/")[:2]) for info in listing(workspace, CANDIDATES)}:
        if name != place or not workspace.exists(f"{name}/_format.json"):
            forget(workspace, name)


def _hand_over(run: Run, work: Plan, candidate: Run) -> None:
    """Tells the candidate's ledger of every file that is to be done, and of what has gone since an earlier night."""
    news = _news(run, work, known_files(candidate.ledger))
    while part := list(islice(news, AT_ONCE)):
        candidate.session.record_files(part)


def _news(run: Run, work: Plan, known: Mapping[str, FileRow]) -> Iterator[FileRow]:
    handed = set[str]()
    for row in _files(run, work):
        handed.add(row.path)
        if row != known.get(row.path):
            yield row
    for path, row in known.items():
        if row.present and path not in handed:
            yield replace(row, present=False)


def _files(run: Run, work: Plan) -> Iterator[FileRow]:
    """Inventory rows of the planned pictures, and of files with a problem, which keep the shards as large as ever."""
    import pyarrow.compute as pc

    for bucket in range(run.ledger.buckets):
        table: pa.Table = run.ledger.files(bucket=bucket)
        planned = work.table.filter(pc.equal(work.table["bucket"], bucket))["image_id"]
        wanted = pc.or_(pc.is_in(table["image_id"], value_set=planned.combine_chunks()), pc.is_valid(table["problem"]))
        yield from files_of(table.filter(wanted).select(HANDED_OVER))
