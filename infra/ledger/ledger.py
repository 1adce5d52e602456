"""The ledger: Parquet files that alone say what happened to every picture, and what is still to be done.

Facts are appended as write-once segments; a fold puts the last rows into a snapshot; every question is answered
from the snapshot and what is newer, so that no answer depends on whether a fold has happened. Plain pyarrow,
DuckDB and Polars read the files without this code. Knows nothing of faces or stages but their names, and nothing
of Prefect or Ray. `files` draws the folder, `rows` has the columns, `schema` the states.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from infra.ledger import fold as folding
from infra.ledger.files import Holdings, Segment, event_path, inventory_path, look, read_json, sealed, sealed_json
from infra.ledger.lease import highest_token
from infra.ledger.plan import Books, books, faces, plan
from infra.ledger.rows import Event, FileRow
from infra.ledger.schema import (
    FORMAT_VERSION,
    LedgerError,
    LedgerUnreadable,
    bucket_of,
    event_table,
    inventory_table,
)
from infra.ledger.sql import Limits, Reader
from infra.storage import Storage, StorageExistsError

if TYPE_CHECKING:
    import pyarrow as pa

_FORMAT_FILE = "_format.json"
AT_ONCE = 50_000
"""Rows that are records at one time while a table of many is made."""
_VIEWS = ("inventory", "events", "latest", "commits")
LEAP = 1 << 24
"""More rows than a holder that was overtaken still writes; 63 bits suffice for a million holders."""
_lock = threading.Lock()
_last: dict[str, int] = {}
"""Of the ledger at a URL."""


class Numbers:
    """The numbers of rows: of two rows about one thing the one with the higher number holds. No clock has a part in it.

    A process counts, for each ledger by itself. Before it adds its first row the count leaps above all that the ledger
    holds, and above all that earlier holders of the workspace may still write, should one of them wake up late.
    """

    def __init__(self) -> None:
        self._has_leapt = False

    def __reduce__(self) -> tuple[type[Numbers], tuple[()]]:
        return Numbers, ()

    def take(self, count: int, storage: Storage) -> range:
        """So many numbers, higher than all that the ledger in the storage held before."""
        start = 0 if self._has_leapt else _highest(storage) + LEAP * (1 + highest_token(storage))
        with _lock:
            first = max(_last.get(storage.url, 0), start) + 1
            _last[storage.url], self._has_leapt = first + count - 1, True
        return range(first, first + count)


@dataclass(frozen=True)
class Ledger:
    """The ledger in a storage. Cheap to open, picklable, safe to use from several threads."""

    storage: Storage
    buckets: int
    limits: Limits = field(default_factory=Limits)
    news: pa.Table | None = None
    """Inventory rows that are not written, but count in every answer."""
    _numbers: Numbers = field(default_factory=Numbers, compare=False, repr=False)

    @classmethod
    def open(cls, storage: Storage, *, create: bool = True, buckets: int = 64, limits: Limits | None = None) -> Ledger:
        """Open the ledger, creating an empty one where there is none.

        `buckets`: a power of two from 1 to 65,536, taken at creation only; `buckets_for(images)` suggests one.
        Raises LedgerUnreadable where there is none and `create` is false, or where a newer version wrote it.
        """
        if buckets.bit_count() != 1 or buckets > 65_536:
            raise LedgerError(f"buckets must be a power of two from 1 to 65,536, not {buckets}")
        if not storage.exists(_FORMAT_FILE):
            if not create:
                raise LedgerUnreadable(
                    f"no ledger in {storage.shown_url}: expected {_FORMAT_FILE}; `mpsr run` makes one"
                )
            _create(storage, buckets)
        written = read_json(storage, _FORMAT_FILE)
        if written["format"] > FORMAT_VERSION:
            raise LedgerUnreadable(
                f"the ledger in {storage.shown_url} has format {written['format']}; this version reads up to "
                f"{FORMAT_VERSION}: install a newer one"
            )
        return cls(storage, written["buckets"], limits or Limits())

    def with_news(self, rows: Iterable[FileRow]) -> Ledger:
        """The same ledger with rows of the inventory that are not written: what a run would know after its scan."""
        import pyarrow as pa

        waiting, parts = iter(rows), []
        while part := list(islice(waiting, AT_ONCE)):
            parts.append(inventory_table(part, seq=self.numbers(len(part)), run_id=""))
        return replace(self, news=pa.concat_tables(parts) if parts else None)

    def append_inventory(self, rows: Sequence[FileRow], run_id: str) -> str:
        """Write one segment of inventory rows (any bucket) and return its path.

        Fills run_id, seq and seen.
        """
        seq = self.numbers(_some(rows))
        table = inventory_table(rows, seq=seq, run_id=run_id)
        return self._append(inventory_path(run_id, seq[0]), table)

    def append_events(self, rows: Sequence[Event], *, run_id: str, token: int, stage: str, bucket: int) -> str:
        """Write one segment of event rows of one stage and bucket, and return its path.

        Fills run_id, token, stage, seq, and where absent finished. Verdicts need an outcome. Raises LedgerError before
        anything is written.
        """
        seq = self.numbers(_some(rows))
        table = event_table(rows, seq=seq, run_id=run_id, token=token, stage=stage, bucket=bucket, buckets=self.buckets)
        return self._append(event_path(run_id, stage, bucket, token, seq[0]), table)

    def _append(self, path: str, table: pa.Table) -> str:
        data = folding.parquet_bytes(table)
        path = sealed(path, data)
        self.storage.create_new(path, data)
        return path

    def numbers(self, count: int) -> range:
        """Numbers for so many rows, above all that the ledger held when the first were taken."""
        return self._numbers.take(count, self.storage)

    def fold(self) -> int:
        """Write the next snapshot from the last one and the newer segments; returns the version that stands.

        Does nothing where nothing is newer. The caller holds the workspace's lease.
        """
        holdings = look(self.storage)
        if not holdings.fresh:
            return holdings.version
        with self.reader(holdings) as reader:
            return folding.fold(reader)

    def latest(
        self,
        *,
        stage: str | None = None,
        bucket: int | None = None,
        image_ids: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """The last row of every (image, face, stage), as an Arrow table ordered by image_id, face, stage."""
        with self.reader() as reader:
            where, values = _id_filter(image_ids)
            rows = reader.latest(stage, self._buckets(bucket, image_ids))
            order = "ORDER BY image_id, face, stage"
            return reader.table(f"SELECT {_column_list(columns)} FROM ({rows}) {where} {order}", values)

    def files(
        self,
        *,
        bucket: int | None = None,
        image_ids: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
        gone: bool = False,
    ) -> pa.Table:
        """The inventory's last row of every path, as an Arrow table ordered by path; with `gone` also of files
        that are no longer in the archive."""
        with self.reader() as reader:
            where, values = _id_filter(image_ids)
            rows = reader.inventory(self._buckets(bucket, image_ids))
            if not gone:
                rows = f"SELECT * FROM ({rows}) WHERE present"
            return reader.table(f"SELECT {_column_list(columns)} FROM ({rows}) {where} ORDER BY path", values)

    def query(self, sql: str, values: Sequence[Any] = ()) -> pa.Table:
        """Ask in DuckDB's SQL over the views `inventory` (last row per path), `events` (all), `latest` (last row per
        image, face and stage) and `commits` (verdicts); `?` stands for the values."""
        with self.reader() as reader:
            for view in _VIEWS:
                if re.search(rf"\b{view}\b", sql, re.IGNORECASE):
                    reader.connection.execute(f"CREATE TEMP VIEW {view} AS {getattr(reader, view)()}")
            return reader.table(sql, values)

    def counts(self, by: str = "outcome") -> dict[str, int]:
        """Images per outcome of their last commit row (or per `state`, `reason_code`, `stage_digest`)."""
        if by not in ("outcome", "state", "reason_code", "stage_digest"):
            raise LedgerError(f"cannot count by {by!r}: expected outcome, state, reason_code or stage_digest")
        with self.reader() as reader:
            return reader.counts(f"SELECT {by}, count(*) FROM ({reader.commits()}) GROUP BY 1 ORDER BY 1")

    def plan(self, digest: str, *, max_attempts: int = 5, lying: pa.Table | None = None) -> pa.Table:
        """What a run under the recipe's digest has to do; see `infra.ledger.plan.plan`."""
        with self.reader() as reader:
            return plan(reader, digest, max_attempts, lying)

    def books(self, problems: Mapping[str, str], digest: str | None = None) -> Books:
        """The balance in files; see `infra.ledger.plan.books`."""
        with self.reader() as reader:
            return books(reader, problems, digest)

    def faces(self) -> dict[str, int]:
        """Faces by outcome, over the images that have a present file."""
        with self.reader() as reader:
            return faces(reader)

    def _buckets(self, bucket: int | None, image_ids: Sequence[str] | None) -> set[int] | None:
        """The buckets that a question touches; None: all."""
        if bucket is not None:
            return {bucket}
        return None if image_ids is None else {bucket_of(image_id, self.buckets) for image_id in image_ids}

    def holdings(self) -> Holdings:
        """Which files make up the ledger now."""
        return look(self.storage)

    def reader(self, holdings: Holdings | None = None) -> Reader:
        """A DuckDB connection over a consistent view, for questions that this class does not know."""
        return Reader(self.storage, holdings or look(self.storage), self.buckets, self.limits, self.news)


def _create(storage: Storage, buckets: int) -> None:
    text = {
        "format": FORMAT_VERSION,
        "buckets": buckets,
        "hash": "sha256",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    try:
        storage.create_new(_FORMAT_FILE, sealed_json(text))
    except StorageExistsError:
        return  # another process was faster; its file is read


def _some(rows: Sequence[Event] | Sequence[FileRow]) -> int:
    if not rows:
        raise LedgerError("a segment needs at least one row")
    return len(rows)


def _highest(storage: Storage) -> int:
    """A segment's name has the number of its first row. A merged one's says nothing of what it was made of."""
    holdings = look(storage)
    segments = [*holdings.folded, *holdings.fresh, *holdings.orphans]
    written = max((s for s in segments if not s.is_merged), key=lambda s: s.number, default=None)
    looked_into = [s for s in segments if s.is_merged or s is written]
    return max((number for segment in looked_into for number in _numbers(storage, segment)), default=0)


def _numbers(storage: Storage, segment: Segment) -> Iterable[int]:
    """Of its own name, and the last of every row group, as the file's footer has them."""
    import pyarrow.parquet as pq

    yield segment.number
    with storage.open_read(segment.path) as file:
        footer = pq.ParquetFile(file).metadata
    column = footer.schema.names.index("seq")
    yield from (footer.row_group(group).column(column).statistics.max for group in range(footer.num_row_groups))


def _id_filter(image_ids: Sequence[str] | None) -> tuple[str, list[Any]]:
    if image_ids is None:
        return "", []
    return "WHERE image_id IN (SELECT unnest(?::VARCHAR[]))", [list(image_ids)]


def _column_list(columns: Sequence[str] | None) -> str:
    return "*" if columns is None else ", ".join(f'"{name}"' for name in columns)
