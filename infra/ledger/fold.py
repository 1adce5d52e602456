"""Folding: the old snapshot and the newer segments become the next snapshot; the commit file is written last."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING

from infra.ledger.files import (
    COMMIT_FILE,
    SEGMENTS_FILE,
    Holdings,
    Segment,
    listing,
    sealed,
    sealed_json,
    snapshot_path,
    version_folder,
    version_of,
)
from infra.ledger.rows import schema_of
from infra.ledger.schema import FORMAT_VERSION, INVENTORY, bucket_sql, record_of
from infra.ledger.sql import Reader

if TYPE_CHECKING:
    import pyarrow as pa

    from infra.storage import Storage

_WRITERS = 8  # a write waits for the disk or the network, not for the processor


def fold(reader: Reader) -> int:
    """Write the next snapshot from the reader's view and return its version.

    Files of buckets without news are linked (or copied inside an object store), not rewritten. A fold that is
    cut short leaves a folder without commit file, which readers pass over.
    """
    holdings = reader.holdings
    version = next_version(reader.storage)
    with _Shelf(reader, version) as shelf:
        _fold_inventory(shelf)
        for stage in holdings.stages:
            _fold_stage(shelf, stage)
    held = [*holdings.folded, *holdings.fresh]
    commit_version(reader.storage, version, shelf.rows, folded=held, dropped=holdings.dropped)
    return version


class _Shelf:
    """Writes one snapshot's files, several at a time, and counts their rows; leaving it waits for all of them."""

    def __init__(self, reader: Reader, version: int) -> None:
        self.reader = reader
        self.rows: dict[str, dict[str, int]] = {}
        self._version = version
        self._pool = ThreadPoolExecutor(_WRITERS, thread_name_prefix="ledger-fold")
        self._writes: list[Future[None]] = []

    def __enter__(self) -> _Shelf:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.settle()
        finally:
            self._pool.shutdown(cancel_futures=True)

    def settle(self) -> None:
        """Wait until everything is written; raises the first error."""
        while self._writes:
            self._writes.pop().result()

    def put(self, kind: str, table: pa.Table, buckets: Sequence[int]) -> None:
        """One file per bucket from a table that is ordered by its column `bucket`."""
        schema = schema_of(record_of(kind))
        places = table["bucket"].to_numpy()
        for bucket in buckets:
            start, end = places.searchsorted([bucket, bucket + 1])
            part = table.slice(start, end - start).drop_columns("bucket").cast(schema)
            self.rows.setdefault(kind, {})[str(bucket)] = int(end - start)
            data = parquet_bytes(part)
            target = sealed(snapshot_path(self._version, kind, bucket), data)
            self._writes.append(self._pool.submit(self.reader.storage.write_atomic, target, data))

    def carry_over(self, kind: str, buckets: Iterable[int]) -> None:
        """The last snapshot's files under the new version."""
        for bucket in buckets:
            (source,) = self.reader.holdings.snapshot_of(kind, {bucket})
            self.rows.setdefault(kind, {})[str(bucket)] = self.reader.holdings.rows[kind][str(bucket)]
            folder, name = snapshot_path(self._version, kind, bucket).rpartition("/")[0], source.rpartition("/")[2]
            self._writes.append(self._pool.submit(self.reader.storage.copy, source, f"{folder}/{name}"))


def _fold_stage(shelf: _Shelf, stage: str) -> None:
    reader = shelf.reader
    changed = {s.bucket for s in reader.holdings.fresh if s.kind == stage and s.bucket is not None}
    shelf.carry_over(stage, _held(reader.holdings, stage) - changed)
    for group in reader.groups((stage,), changed):
        shelf.put(stage, _ordered(reader, reader.latest(stage, group), "image_id, face"), group)
        shelf.settle()


def _fold_inventory(shelf: _Shelf) -> None:
    reader = shelf.reader
    changed = reader.inventory_buckets_to_rewrite()
    shelf.carry_over(INVENTORY, _held(reader.holdings, INVENTORY) - changed)
    for group in reader.groups((INVENTORY,), changed):
        shelf.put(INVENTORY, _ordered(reader, reader.inventory(group), "image_id, path"), group)
        shelf.settle()


def _ordered(reader: Reader, rows: str, order: str) -> pa.Table:
    return reader.table(f"SELECT *, {bucket_sql(reader.buckets)} AS bucket FROM ({rows}) ORDER BY bucket, {order}")


def _held(holdings: Holdings, kind: str) -> set[int]:
    return {s.bucket for s in holdings.snapshot if s.kind == kind and s.bucket is not None}


def republish(reader: Reader, folded: Iterable[Segment], dropped: Iterable[str]) -> int:
    """The same rows as the last snapshot under the next version, with other marks."""
    version = next_version(reader.storage)
    with _Shelf(reader, version) as shelf:
        for kind in {segment.kind for segment in reader.holdings.snapshot}:
            shelf.carry_over(kind, _held(reader.holdings, kind))
    commit_version(reader.storage, version, shelf.rows, folded=folded, dropped=dropped)
    return version


def commit_version(
    storage: Storage,
    version: int,
    rows: dict[str, dict[str, int]],
    *,
    folded: Iterable[Segment],
    dropped: Iterable[str],
) -> None:
    """Write what the snapshot holds, then the commit file that makes it count."""
    import pyarrow as pa

    kept = [segment.path for segment in folded]
    gone = [path for path in dropped if storage.exists(path)]
    marks = pa.table({"path": pa.array(kept + gone, pa.string()), "folded": [True] * len(kept) + [False] * len(gone)})
    segments = parquet_bytes(marks)
    storage.write_atomic(f"{version_folder(version)}/{SEGMENTS_FILE}", segments)
    commit = {
        "format": FORMAT_VERSION,
        "version": version,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": rows,
        "segments_crc32": zlib.crc32(segments),
    }
    storage.create_new(f"{version_folder(version)}/{COMMIT_FILE}", sealed_json(commit))


def parquet_bytes(table: pa.Table) -> memoryview:
    """The table as a zstd Parquet file, its pages with checksums for whoever reads it elsewhere."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return memoryview(sink.getvalue())


def next_version(storage: Storage) -> int:
    """One more than the highest version that was ever begun."""
    return max((version_of(found.path) for found in listing(storage, "snapshot")), default=0) + 1
