"""Files of the ledger that are not what was written: found by their checksums, set aside so that the rest goes on.

What a segment held that is set aside is made again: a file is scanned again, a picture planned again. A snapshot holds
nothing of its own: an earlier one and the segments take its place.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

from infra.ledger.files import (
    COMMIT_FILE,
    SEGMENTS_FILE,
    committed_versions,
    listing,
    look,
    read_json,
    seal_of,
    snapshot_path,
    version_folder,
)
from infra.ledger.schema import INVENTORY, LedgerUnreadable
from infra.storage import Storage, StorageError

DAMAGED = "damaged"
"""The folder of a workspace with what was set aside, under the paths that it had."""


def damaged_files(storage: Storage) -> Iterator[str]:
    """Every file of the ledger that is not what was written, or is gone from a snapshot.

    Of files of earlier versions, without checksums, only those that cannot be read are seen.
    """
    for version in committed_versions(storage):
        yield from _damaged_in(storage, version)
    yield from _damaged_among(storage, _segments(storage))


def set_aside_damaged(storage: Storage, *, history: bool = False) -> list[str]:
    """Sets aside what is damaged in what answers are taken from; with `history` in every file. Returns the names.

    The caller holds the workspace's lease.
    """
    told: list[str] = []
    for version in reversed(committed_versions(storage)):
        if not (bad := list(_damaged_in(storage, version))):
            if not history:
                break
            continue
        told += bad
        set_aside(storage, {*bad, f"{version_folder(version)}/{COMMIT_FILE}"})  # without it the version does not count
    segments = _segments(storage) if history else [segment.path for segment in look(storage).fresh]
    bad = list(_damaged_among(storage, segments))
    set_aside(storage, bad)
    return [*told, *bad]


def set_aside(storage: Storage, paths: Iterable[str]) -> None:
    """Moves files, where they are, to the folder of damaged ones."""
    for path in paths:
        if storage.exists(path):
            storage.delete(f"{DAMAGED}/{path}")
            storage.copy(path, f"{DAMAGED}/{path}")
            storage.delete(path)


def _segments(storage: Storage) -> list[str]:
    found = (info.path for kind in (INVENTORY, "events") for info in listing(storage, kind))
    return [path for path in found if path.endswith(".parquet")]


def _damaged_in(storage: Storage, version: int) -> Iterator[str]:
    folder = version_folder(version)
    try:
        commit = read_json(storage, f"{folder}/{COMMIT_FILE}")
    except LedgerUnreadable:
        yield f"{folder}/{COMMIT_FILE}"
        return
    if not _is_whole(storage, f"{folder}/{SEGMENTS_FILE}", commit.get("segments_crc32")):
        yield f"{folder}/{SEGMENTS_FILE}"
    held = [info.path for info in listing(storage, folder)]
    for kind, buckets in commit["rows"].items():
        for bucket in map(int, buckets):
            place = snapshot_path(version, kind, bucket).removesuffix("parquet")
            path = next((path for path in held if path.startswith(place)), None)
            if path is None or not _is_whole(storage, path, seal_of(path)):
                yield path or f"{place}parquet"


def _damaged_among(storage: Storage, paths: Iterable[str]) -> Iterator[str]:
    return (path for path in paths if not _is_whole(storage, path, seal_of(path)))


def _is_whole(storage: Storage, path: str, checksum: int | None) -> bool:
    """Whether a Parquet file is there and has this checksum; where none is known, whether it can be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not storage.exists(path):
        return False
    data = storage.read_bytes(path)
    if checksum is not None:
        return zlib.crc32(data) == checksum
    try:
        pq.read_table(pa.BufferReader(data)).validate(full=True)
    except StorageError:
        raise
    except (pa.ArrowException, OSError, ValueError):
        return False
    return True
