"""What lies in the restored tree, and whose it is: a file counts as a picture's result by its content alone.

Files of an archive are renamed, exchanged and replaced; a result goes where its picture went, and never stays under
a name that means somebody else now. Knows the restored tree and the ledger's rows, nothing of recipes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING

from infra.ledger import Event, FileRow, listing
from infra.storage import Storage, StorageMissingError, decode_name
from tasks.worker import RESTORED

if TYPE_CHECKING:
    import pyarrow as pa

DISPLACED = "displaced"
"""Folder for results whose path holds another picture now, until the run that found this out is finished."""
AT_ONCE = 50_000
"""Files that are records at one time while a table of many is made."""


def restored(path: str) -> str:
    """Where the result of a file of the archive lies; takes the ledger's spelling of the path."""
    return decode_name(f"{RESTORED}/{path}")


def lying(storage: Storage) -> pa.Table:
    """What lies in the restored tree: `path` in the ledger's spelling, below that tree, and `lying_bytes`."""
    import pyarrow as pa

    schema = pa.schema({"path": pa.string(), "lying_bytes": pa.int64()})
    found, parts = listing(storage, RESTORED), []
    while some := list(islice(found, AT_ONCE)):
        paths = [info.ledger_path.removeprefix(f"{RESTORED}/") for info in some]
        parts.append(pa.table([paths, [info.bytes for info in some]], schema=schema))
    return pa.concat_tables([schema.empty_table(), *parts])


def sweep(storage: Storage) -> None:
    """Deletes what writes that were cut short left in the restored tree; the caller holds the lease, idle."""
    if storage.is_local and storage.exists(RESTORED):
        for left in storage.leftovers(RESTORED):
            storage.delete(left.path)


def make_way(storage: Storage, changed: Iterable[tuple[FileRow, FileRow]], results: Mapping[str, str | None]) -> None:
    """Puts results aside whose path holds another picture now.

    changed: inventory rows of a path, the earlier and the present one. results: image_id → sha256 of its result; a
    file that is the present picture's already stays.
    """
    for before, now in changed:
        path = restored(now.path)
        lies_there = sha256_of(storage, path)
        if lies_there is not None and lies_there != results.get(now.image_id):
            aside = f"{DISPLACED}/{before.image_id}"
            storage.delete(aside)
            storage.copy(path, aside)
            storage.delete(path)


def deliver(storage: Storage, paths: Iterable[str], verdict: Event) -> bool:
    """Makes every path hold the result that an event of the ledger names; False where no copy of it is left."""
    wanted = verdict.output_sha256
    if not wanted:
        return False
    lacking: list[str] = []
    there: list[str] = []
    for path in map(restored, paths):
        (there if sha256_of(storage, path) == wanted else lacking).append(path)
    if not lacking:
        return True
    elsewhere = [decode_name(verdict.output_uri or ""), f"{DISPLACED}/{verdict.image_id}"]
    for place, data in _copies(storage, [*there[:1], *filter(None, elsewhere)], wanted):
        modified = storage.info(place).mtime_ns
        for path in lacking:
            storage.write_atomic(path, data, modified)
        return True
    return False


def _copies(storage: Storage, places: Iterable[str], wanted: str) -> Iterator[tuple[str, bytes]]:
    for place in places:
        try:
            data = storage.read_bytes(place)
        except StorageMissingError:
            continue
        if hashlib.sha256(data).hexdigest() == wanted:
            yield place, data


def sha256_of(storage: Storage, path: str) -> str | None:
    """Of the file's content; None where there is none."""
    try:
        return hashlib.sha256(storage.read_bytes(path)).hexdigest()
    except StorageMissingError:
        return None
