"""Which files make up the ledger right now: segments, the last committed snapshot, and what it has folded.

_format.json                                          format version, buckets, hash
inventory/<run>/<seq>.<crc>.parquet                   inventory segments
events/<run>/b<bucket>/<stage>-<token>-<seq>.<crc>.parquet    event segments
events/merged/b<bucket>/<stage>-<token>-<seq>.<crc>.parquet   small folded segments, put together
snapshot/v=<n>/inventory/b<bucket>.<crc>.parquet      last row of every path
snapshot/v=<n>/latest/<stage>/b<bucket>.<crc>.parquet last row of every (image, face, stage)
snapshot/v=<n>/_segments.parquet                      every segment that the snapshot holds, or that was merged away
snapshot/v=<n>/_COMMIT.json                           written last: without it the snapshot does not count

<crc> is the CRC-32 of the file, in hex; files of earlier versions have none. `_COMMIT.json` has its own, and that of
`_segments.parquet`.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

from infra.ledger.schema import INVENTORY, LedgerUnreadable
from infra.storage import FileInfo, Storage, StorageError, StorageMissingError

MERGED = "merged"
SEGMENTS_FILE = "_segments.parquet"
COMMIT_FILE = "_COMMIT.json"
_SEALED = re.compile(r"\.([0-9a-f]{8})\.parquet$")


@dataclass(frozen=True, slots=True)
class Segment:
    """One Parquet file of the ledger."""

    path: str
    kind: str
    """'inventory', or the stage whose events it holds."""
    bucket: int | None
    """None: rows of every bucket (inventory segments)."""
    bytes: int

    @property
    def is_merged(self) -> bool:
        return self.path.split("/")[1] == MERGED

    @property
    def number(self) -> int:
        """Of its first row when it was written; of a merged one that of the merging."""
        return int(self.path.rpartition("/")[2].rpartition("-")[2].partition(".")[0])


@dataclass(frozen=True)
class Holdings:
    """One consistent view: the snapshot of `version` (0: none) and the segments that are newer than it."""

    version: int = 0
    rows: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Kind and bucket → rows in the snapshot's file."""
    snapshot: tuple[Segment, ...] = ()
    folded: tuple[Segment, ...] = ()
    fresh: tuple[Segment, ...] = ()
    dropped: frozenset[str] = frozenset()
    """Segments whose rows live on in a merged one; they may or may not be deleted yet."""
    orphans: tuple[Segment, ...] = ()
    """Merged segments that no snapshot names: a merge was cut short. Their rows lie elsewhere too."""

    @property
    def stages(self) -> list[str]:
        """Every stage that has rows."""
        return sorted({s.kind for s in (*self.snapshot, *self.folded, *self.fresh)} - {INVENTORY})

    def snapshot_of(self, kind: str, buckets: Collection[int] | None = None) -> list[str]:
        return _paths(self.snapshot, kind, buckets)

    def fresh_of(self, kind: str, buckets: Collection[int] | None = None) -> list[str]:
        return _paths(self.fresh, kind, buckets)


def look(storage: Storage) -> Holdings:
    """List the ledger's files and read the last commit."""
    segments = [*_segments(storage, INVENTORY), *_segments(storage, "events")]
    committed = committed_versions(storage)
    if not committed:
        return Holdings(fresh=tuple(segments))  # a merged one's rows may lie elsewhere too: of two equal rows one holds
    version = committed[-1]
    folded, dropped = _marks(storage, version)
    live = [s for s in segments if s.path not in dropped]
    return Holdings(
        version,
        read_json(storage, f"{version_folder(version)}/{COMMIT_FILE}")["rows"],
        tuple(_snapshot_files(storage, version)),
        folded=tuple(s for s in live if s.path in folded),
        fresh=tuple(s for s in live if s.path not in folded and not s.is_merged),
        dropped=dropped,
        orphans=tuple(s for s in live if s.path not in folded and s.is_merged),
    )


def sealed(path: str, data: bytes | memoryview) -> str:
    """The path of a Parquet file with the checksum of what it is to hold in its name."""
    return f"{path.removesuffix('.parquet')}.{zlib.crc32(data):08x}.parquet"


def seal_of(path: str) -> int | None:
    """The checksum that a file's name tells; None for files of earlier versions."""
    found = _SEALED.search(path)
    return int(found[1], 16) if found else None


def sealed_json(facts: Mapping[str, Any]) -> bytes:
    """One JSON object with the checksum of the others in its last field; `read_json` reads it."""
    return _json({**facts, "crc32": zlib.crc32(_json(facts))})


def read_json(storage: Storage, path: str) -> dict[str, Any]:
    """A small file of the ledger, without its checksum. Raises LedgerUnreadable where it is not what was written."""
    try:
        facts: dict[str, Any] = json.loads(storage.read_bytes(path))
        written = facts.pop("crc32", None)
    except (ValueError, AttributeError):
        raise damaged(storage, path) from None
    if written not in (None, zlib.crc32(_json(facts))):
        raise damaged(storage, path)
    return facts


def damaged(storage: Storage, path: str) -> LedgerUnreadable:
    """The error that names a file which is not what was written."""
    return LedgerUnreadable(
        f"{path} in {storage.shown_url} is not what was written: a disk or a copy damaged it. `mpsr verify` looks for "
        "more, `mpsr repair` sets such files aside; what they held is then made again from the rest"
    )


def _json(facts: Mapping[str, Any]) -> bytes:
    return json.dumps(facts, indent=1).encode()


def version_folder(version: int) -> str:
    return f"snapshot/v={version:06d}"


def version_of(path: str) -> int:
    """The snapshot version that a path below `snapshot/` belongs to."""
    return int(path.split("/")[1].removeprefix("v="))


def committed_versions(storage: Storage) -> list[int]:
    """Versions with a commit file, in growing order."""
    return sorted(version_of(f.path) for f in listing(storage, "snapshot") if f.path.endswith(f"/{COMMIT_FILE}"))


def event_path(run_id: str, stage: str, bucket: int, token: int, seq: int) -> str:
    return f"events/{quote(run_id, safe='')}/b{bucket:02x}/{quote(stage, safe='')}-{token:06d}-{seq:017d}.parquet"


def inventory_path(run_id: str, seq: int) -> str:
    return f"inventory/{quote(run_id, safe='')}/{seq:017d}.parquet"


def merged_path(stage: str, bucket: int | None, token: int, seq: int) -> str:
    """Where small segments of one stage and bucket (None: of the inventory) are put together."""
    return inventory_path(MERGED, seq) if bucket is None else event_path(MERGED, stage, bucket, token, seq)


def snapshot_path(version: int, kind: str, bucket: int) -> str:
    folder = INVENTORY if kind == INVENTORY else f"latest/{quote(kind, safe='')}"
    return f"{version_folder(version)}/{folder}/b{bucket:02x}.parquet"


def highest_token_of_rows(storage: Storage) -> int:
    """The highest token in the ledger's events; 0 where there are none."""
    return max((int(s.path.rsplit("-", 2)[1]) for s in _segments(storage, "events")), default=0)


def listing(storage: Storage, prefix: str) -> Iterator[FileInfo]:
    """The files below a prefix; none where it does not exist yet."""
    try:
        yield from storage.walk(prefix)
    except StorageMissingError:
        return


def _segments(storage: Storage, prefix: str) -> Iterator[Segment]:
    for found in listing(storage, prefix):
        parts = found.path.split("/")
        if not found.path.endswith(".parquet"):
            continue
        if prefix == INVENTORY:
            yield Segment(found.path, INVENTORY, None, found.bytes or 0)
        else:
            stage = unquote(parts[-1].rsplit("-", 2)[0])
            yield Segment(found.path, stage, _bucket(parts[-2]), found.bytes or 0)


def _snapshot_files(storage: Storage, version: int) -> Iterator[Segment]:
    for found in listing(storage, version_folder(version)):
        parts = found.path.split("/")
        if parts[2] in (INVENTORY, "latest"):
            kind = INVENTORY if parts[2] == INVENTORY else unquote(parts[3])
            yield Segment(found.path, kind, _bucket(parts[-1].partition(".")[0]), found.bytes or 0)


def _marks(storage: Storage, version: int) -> tuple[frozenset[str], frozenset[str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = f"{version_folder(version)}/{SEGMENTS_FILE}"
    try:
        table = pq.read_table(pa.BufferReader(storage.read_bytes(path)))
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, StorageError):
            raise
        raise damaged(storage, path) from error
    marks = list(zip(table["path"].to_pylist(), table["folded"].to_pylist(), strict=True))
    return frozenset(p for p, folded in marks if folded), frozenset(p for p, folded in marks if not folded)


def _paths(segments: tuple[Segment, ...], kind: str, buckets: Collection[int] | None) -> list[str]:
    return [s.path for s in segments if s.kind == kind and (buckets is None or s.bucket is None or s.bucket in buckets)]


def _bucket(name: str) -> int:
    return int(name.removeprefix("b"), 16)
