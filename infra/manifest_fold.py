"""Folding: the old snapshot and the newer segments become the next snapshot; the commit file is written last."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from infra.manifest_files import (
    COMMIT_FILE,
    SEGMENTS_FILE,
    Holdings,
    Segment,
    listing,
    snapshot_path,
    version_folder,
    version_of,
)
from infra.manifest_schema import FORMAT_VERSION, INVENTORY, event_schema, inventory_schema
from infra.manifest_sql import Reader

if TYPE_CHECKING:
    import pyarrow as pa

    from infra.storage import Storage


def fold(reader: Reader) -> int:
    """Write the next snapshot from the reader's view and return its version.

    Files of buckets without news are linked (or copied inside an object store), not rewritten. A fold that is
    cut short leaves a folder without commit file, which readers pass over.
    """
    holdings, storage = reader.holdings, reader.storage
    version = next_version(storage)
    rows = {INVENTORY: _fold_inventory(reader, version)}
    illegal = Counter(holdings.commit.get("illegal_transitions", {}))
    for stage in holdings.stages:
        rows[stage] = {}
        for bucket in _buckets(holdings, stage):
            rows[stage][str(bucket)] = _fold_stage(reader, version, stage, bucket, illegal)
    commit_version(
        storage, version, rows, illegal, folded=[*holdings.folded, *holdings.fresh], dropped=holdings.dropped
    )
    return version


def republish(reader: Reader, folded: Iterable[Segment], dropped: Iterable[str]) -> int:
    """The same rows as the last snapshot under the next version, with other marks."""
    holdings, storage = reader.holdings, reader.storage
    version = next_version(storage)
    for held in holdings.snapshot:
        storage.copy(held.path, snapshot_path(version, held.kind, held.bucket or 0))
    illegal = Counter(holdings.commit["illegal_transitions"])
    commit_version(storage, version, holdings.commit["rows"], illegal, folded=folded, dropped=dropped)
    return version


def commit_version(
    storage: Storage,
    version: int,
    rows: dict[str, dict[str, int]],
    illegal: Counter[str],
    *,
    folded: Iterable[Segment],
    dropped: Iterable[str],
) -> None:
    """Write what the snapshot holds, then the commit file that makes it count."""
    import pyarrow as pa

    kept = [segment.path for segment in folded]
    gone = [path for path in dropped if storage.exists(path)]
    marks = pa.table({"path": pa.array(kept + gone, pa.string()), "folded": [True] * len(kept) + [False] * len(gone)})
    storage.write_atomic(f"{version_folder(version)}/{SEGMENTS_FILE}", parquet_bytes(marks))
    commit = {
        "format": FORMAT_VERSION,
        "version": version,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": rows,
        "illegal_transitions": dict(illegal),
    }
    storage.create_new(f"{version_folder(version)}/{COMMIT_FILE}", json.dumps(commit, indent=1).encode())


def parquet_bytes(table: pa.Table) -> memoryview:
    """The table as a zstd Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return memoryview(sink.getvalue())


def next_version(storage: Storage) -> int:
    """One more than the highest version that was ever begun."""
    return max((version_of(found.path) for found in listing(storage, "snapshot")), default=0) + 1


def _buckets(holdings: Holdings, kind: str) -> list[int]:
    found = {s.bucket for s in (*holdings.snapshot, *holdings.fresh) if s.kind == kind}
    return sorted(bucket for bucket in found if bucket is not None)


def _fold_stage(reader: Reader, version: int, stage: str, bucket: int, illegal: Counter[str]) -> int:
    target = snapshot_path(version, stage, bucket)
    if not reader.holdings.fresh_of(stage, bucket):
        return _carry_over(reader, stage, bucket, target)
    illegal.update(reader.illegal_transitions(stage, bucket, since_snapshot=True))
    table = reader.table(f"SELECT * FROM ({reader.latest(stage, bucket)}) ORDER BY image_id, face")
    return _write(reader.storage, target, table.cast(event_schema()))


def _fold_inventory(reader: Reader, version: int) -> dict[str, int]:
    changed = reader.inventory_buckets_to_rewrite()
    rows = {}
    for bucket in sorted(changed.union(_buckets(reader.holdings, INVENTORY))):
        target = snapshot_path(version, INVENTORY, bucket)
        if bucket in changed:
            table = reader.table(f"SELECT * FROM ({reader.inventory(bucket)}) ORDER BY image_id, path")
            rows[str(bucket)] = _write(reader.storage, target, table.cast(inventory_schema()))
        else:
            rows[str(bucket)] = _carry_over(reader, INVENTORY, bucket, target)
    return rows


def _carry_over(reader: Reader, kind: str, bucket: int, target: str) -> int:
    (source,) = reader.holdings.snapshot_of(kind, bucket)
    reader.storage.copy(source, target)
    return int(reader.holdings.commit["rows"][kind][str(bucket)])


def _write(storage: Storage, target: str, table: pa.Table) -> int:
    storage.write_atomic(target, parquet_bytes(table))
    return int(table.num_rows)
