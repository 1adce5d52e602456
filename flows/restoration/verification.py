"""Whether a workspace still is what was written into it, and what of it can be put right from what is there.

Everything is read and compared with its checksum: the ledger, the intermediates, and every restored file with the
sha256 that the ledger has of it. A file that is wrong is set aside, never deleted: somebody may have worked on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from flows.restoration.delivered import deliver, restored, sha256_of
from infra.facts import Facts
from infra.ledger import (
    COMMIT,
    DELIVERED_STATES,
    Ledger,
    damaged_files,
    events_of,
    listing,
    set_aside,
    set_aside_damaged,
)
from infra.storage import Storage
from tasks.worker import intermediate

INTERMEDIATES = "intermediates"
FILES_AT_ONCE = 8
_DELIVERED = f"""
    SELECT i.path, image_id, output_sha256 FROM inventory i JOIN commits c USING (image_id)
    WHERE present AND problem IS NULL AND output_sha256 IS NOT NULL AND state IN {DELIVERED_STATES} ORDER BY path"""


class Verification(Facts):
    """What is not as it was written: paths relative to the workspace, as the ledger spells them, with what is wrong.

    compared: how many restored files were held against the ledger.
    """

    compared: int
    ledger: list[str]
    intermediates: list[str]
    restored: list[str]

    @property
    def is_whole(self) -> bool:
        return not (self.ledger or self.intermediates or self.restored)


class Repair(Facts):
    """What was set aside, what was delivered again from another copy, and what the next run has to make again."""

    set_aside: list[str]
    delivered: list[str]
    to_make: list[str]


class Delivered(NamedTuple):
    """A restored file that the ledger speaks of."""

    path: str
    image_id: str
    sha256: str


def verify(workspace: Storage) -> Verification:
    """Reads all of a workspace and writes nothing. Raises LedgerError where there is none."""
    ledger = Ledger.open(workspace, create=False)
    if damaged := list(damaged_files(workspace)):
        return Verification(compared=0, ledger=damaged, intermediates=_damaged_intermediates(workspace), restored=[])
    checked = list(_checked(ledger))
    wrong = [f"restored/{file.path} {what}" for file, what in checked if what]
    return Verification(
        compared=len(checked), ledger=[], intermediates=_damaged_intermediates(workspace), restored=wrong
    )


def repair(workspace: Storage) -> Repair:
    """Sets aside what is wrong and delivers again what there is another copy of; the caller holds the lease.

    The next run makes again what is left.
    """
    gone = set_aside_damaged(workspace, history=True)
    damaged = _damaged_intermediates(workspace)
    set_aside(workspace, damaged)
    ledger = Ledger.open(workspace, create=False)
    ledger.fold()
    wrong = [file for file, what in _checked(ledger) if what]
    places = [restored(file.path) for file in wrong]
    lying = [place for place in places if workspace.exists(place)]
    set_aside(workspace, lying)
    again = [file for file in wrong if _delivered_again(ledger, file)]
    return Repair(
        set_aside=[*gone, *damaged, *lying],
        delivered=[file.path for file in again],
        to_make=[file.path for file in wrong if file not in again],
    )


def _checked(ledger: Ledger) -> Iterator[tuple[Delivered, str | None]]:
    """Every file that was delivered, and what is wrong with it."""
    with ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="verify") as pool:
        for batch in ledger.query(_DELIVERED).to_batches(max_chunksize=10_000):
            files = [Delivered(*row.values()) for row in batch.to_pylist()]
            yield from zip(files, pool.map(partial(_wrong_with, ledger.storage), files), strict=True)


def _wrong_with(storage: Storage, file: Delivered) -> str | None:
    found = sha256_of(storage, restored(file.path))
    if found == file.sha256:
        return None
    return "is not the file that was delivered" if found else "is gone"


def _damaged_intermediates(storage: Storage) -> list[str]:
    return [info.path for info in listing(storage, INTERMEDIATES) if intermediate.damage(storage, info.path)]


def _delivered_again(ledger: Ledger, file: Delivered) -> bool:
    """Whether a copy at another of the picture's paths, or elsewhere in the workspace, could be put in its place."""
    ids = [file.image_id]
    verdict = next(events_of(ledger.latest(stage=COMMIT, image_ids=ids)))
    return deliver(ledger.storage, ledger.files(image_ids=ids, columns=["path"])["path"].to_pylist(), verdict)
