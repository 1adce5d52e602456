"""What a workspace may forget: old snapshots, small segments, old intermediates, leavings of crashes.

No row of the ledger is ever lost: small segments are put together, never dropped. Knows nothing of what an
intermediate holds. The caller holds the workspace's lease.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from infra.ledger.files import Segment, committed_versions, listing, merged_path, sealed, version_of
from infra.ledger.fold import parquet_bytes, republish
from infra.ledger.ledger import Ledger
from infra.ledger.rows import schema_of
from infra.ledger.schema import record_of
from infra.ledger.sql import Reader
from infra.storage import FileInfo, Storage

_DAY_S = 86_400
_LEFTOVER_DAYS = 1
_MERGED_BYTES = 64_000_000


@dataclass(frozen=True, slots=True)
class Policy:
    """How much of the past a workspace keeps."""

    keep_snapshots: int = 2
    intermediates: str = "intermediates"
    """The folder of intermediates, relative to the workspace."""
    intermediates_days: float = 14
    """Intermediates older than this are dropped."""
    intermediates_bytes: int | None = None
    """The oldest intermediates are dropped until the rest fits; None: no budget."""
    superseded: str = "superseded"
    """The folder with one folder per promotion, of outputs that it replaced; the names sort by age."""
    keep_superseded: int = 2
    """Promotions whose replaced outputs stay; those of older ones go, and they can no longer be taken back."""
    candidates: str = "candidates"
    """The folder with one folder per tree of outputs that wait for a decision, or lost it."""
    superseded_days: float = 30
    """Replaced outputs and such trees older than this go in any case."""
    merge_below_bytes: int = 1_000_000
    """Folded event segments smaller than this are put together."""


@dataclass(frozen=True, slots=True)
class Freed:
    """What one kind of thing frees."""

    what: str
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Cleaning:
    """What a cleaning freed, or would free."""

    items: tuple[Freed, ...]

    @property
    def files(self) -> int:
        return sum(item.files for item in self.items)

    @property
    def bytes(self) -> int:
        return sum(item.bytes for item in self.items)


def clean(ledger: Ledger, policy: Policy, *, dry_run: bool = False) -> Cleaning:
    """Apply the policy and say what it freed; with `dry_run` change nothing and say what it would free.

    Bytes are what the disk gains: a file with another hard link gains nothing.
    """
    storage = ledger.storage
    items = [_merge(ledger, policy.merge_below_bytes, dry_run)]
    for what, found in (
        ("old snapshots", _old_snapshots(storage, policy.keep_snapshots)),
        ("intermediates", _old_intermediates(storage, policy)),
        ("replaced outputs", _old_folders(storage, policy.superseded, policy.keep_superseded, policy.superseded_days)),
        ("candidates", _old_folders(storage, policy.candidates, None, policy.superseded_days)),
        ("unfinished writes", _leftovers(storage)),
    ):
        items.append(_delete(storage, what, list(found), dry_run))
    return Cleaning(tuple(items))


def _merge(ledger: Ledger, below: int, dry_run: bool) -> Freed:
    """Put small folded segments together: first the merged file, then a snapshot that names it, then deletion."""
    storage, holdings = ledger.storage, ledger.holdings()
    merged: list[Segment] = []
    replaced: list[Segment] = []
    with ledger.reader(holdings) as reader:
        for group in _groups(holdings.folded, below):
            data = _together(reader, group)
            path = merged_path(group[0].kind, group[0].bucket, _token(group[-1]), ledger.numbers(1)[0])
            path = sealed(path, data)
            if not dry_run:
                storage.create_new(path, data)
            merged.append(Segment(path, group[0].kind, group[0].bucket, len(data)))
            replaced.extend(group)
        spent = {segment.path for segment in replaced}
        if merged and not dry_run:
            kept = [segment for segment in holdings.folded if segment.path not in spent]
            republish(reader, [*kept, *merged], spent.union(holdings.dropped))
    left = [storage.info(path) for path in holdings.dropped if storage.exists(path)]
    orphans = [FileInfo(segment.path, segment.bytes) for segment in holdings.orphans]
    doomed = [*(FileInfo(segment.path, segment.bytes) for segment in replaced), *left, *orphans]
    freed = _delete(storage, "small segments", doomed, dry_run)
    return Freed(freed.what, freed.files - len(merged), freed.bytes - sum(segment.bytes for segment in merged))


def _groups(folded: Sequence[Segment], below: int) -> Iterator[list[Segment]]:
    """Small segments of one stage and bucket, oldest first, at least two and not too much at once."""
    together: dict[tuple[str, int | None], list[Segment]] = defaultdict(list)
    for segment in sorted(folded, key=lambda segment: segment.number):
        if segment.bytes < below:
            together[segment.kind, segment.bucket].append(segment)
    for segments in together.values():
        group: list[Segment] = []
        for segment in segments:
            if sum(s.bytes for s in group) + segment.bytes > _MERGED_BYTES:
                yield group
                group = []
            group.append(segment)
        if len(group) > 1:
            yield group


def _together(reader: Reader, group: Sequence[Segment]) -> memoryview:
    kind = group[0].kind
    table = reader.table(f"SELECT * FROM ({reader.files(kind, [s.path for s in group])}) ORDER BY seq")
    return parquet_bytes(table.cast(schema_of(record_of(kind))))


def _old_snapshots(storage: Storage, keep: int) -> Iterator[FileInfo]:
    """All but the last committed versions; a version without commit file is the leaving of a crash."""
    kept = committed_versions(storage)[-keep:]
    return (info for info in listing(storage, "snapshot") if version_of(info.path) not in kept)


def _old_intermediates(storage: Storage, policy: Policy) -> Iterator[FileInfo]:
    """Newest first, until one is too old or the budget is spent; from there on all."""
    oldest = time.time_ns() - int(policy.intermediates_days * _DAY_S * 1_000_000_000)
    kept = 0
    found = listing(storage, policy.intermediates)
    for info in sorted(found, key=lambda info: info.mtime_ns or 0, reverse=True):
        kept += info.bytes or 0
        over_budget = policy.intermediates_bytes is not None and kept > policy.intermediates_bytes
        if over_budget or (info.mtime_ns or 0) < oldest:
            yield info


def _old_folders(storage: Storage, place: str, keep: int | None, days: float) -> Iterator[FileInfo]:
    """All files of folders that are not among the last `keep` (None: no such limit), or that nothing entered lately.

    Replaced outputs are as old as what they were: their folder's name tells when they were replaced.
    """
    folders: dict[str, list[FileInfo]] = defaultdict(list)
    for info in listing(storage, place):
        folders[info.path.split("/")[1]].append(info)
    kept = sorted(folders)[0 if keep is None else max(0, len(folders) - keep) :]
    oldest = time.time() - days * _DAY_S
    for name, files in folders.items():
        if name not in kept or _date(name, files) < oldest:
            yield from files


def _date(name: str, files: Sequence[FileInfo]) -> float:
    """When a folder was made: as its name says (`20260131T020000-…`), else its newest file."""
    try:
        return datetime.strptime(name[:15], "%Y%m%dT%H%M%S").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return max((info.mtime_ns or 0) for info in files) / 1e9


def _leftovers(storage: Storage) -> Iterator[FileInfo]:
    oldest = time.time_ns() - _LEFTOVER_DAYS * _DAY_S * 1_000_000_000
    return (info for info in storage.leftovers() if (info.mtime_ns or 0) < oldest)


def _delete(storage: Storage, what: str, doomed: Sequence[FileInfo], dry_run: bool) -> Freed:
    freed = Freed(what, len(doomed), _disk_gain(storage, doomed))
    for info in () if dry_run else doomed:
        storage.delete(info.path)
    return freed


def _disk_gain(storage: Storage, doomed: Sequence[FileInfo]) -> int:
    """Bytes that come free: of a file with several names only where all its names go."""
    if not storage.is_local:
        return sum(info.bytes or 0 for info in doomed)
    names: dict[tuple[int, int], int] = defaultdict(int)
    gain = 0
    for info in doomed:
        found = storage.local_path(info.path).stat()
        names[found.st_dev, found.st_ino] += 1
        if names[found.st_dev, found.st_ino] == found.st_nlink:
            gain += found.st_size
    return gain


def _token(segment: Segment) -> int:
    """The token in an event segment's name; inventory segments have none."""
    return 0 if segment.bucket is None else int(segment.path.rsplit("-", 2)[1])
