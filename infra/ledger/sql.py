"""The ledger's questions as DuckDB SQL: last rows from snapshot and newer segments together.

Every relation gives the same rows whether a fold has happened or not. Knows nothing of who writes or when.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from infra.ledger.damage import damaged_files
from infra.ledger.files import Holdings, damaged
from infra.ledger.schema import COMMIT, INVENTORY, bucket_sql, duckdb_schema, empty_select
from infra.storage import Storage

if TYPE_CHECKING:
    import pyarrow as pa

_GROUP_BYTES = 32_000_000  # of Parquet: a few hundred thousand rows
_KEY = "image_id, face, stage"
_LAST = f"QUALIFY row_number() OVER (PARTITION BY {_KEY} ORDER BY token DESC, seq DESC) = 1"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a question may use of the machine."""

    memory_mb: int = 2_000
    """DuckDB's memory; what does not fit goes to a temporary folder on local disk."""
    threads: int = 2


class Reader:
    """A DuckDB connection over one consistent view of the ledger; a context manager."""

    def __init__(
        self, storage: Storage, holdings: Holdings, buckets: int, limits: Limits, news: pa.Table | None = None
    ) -> None:
        """`news`: inventory rows that are newer than all that is held, though written nowhere."""
        import duckdb

        self.storage, self.holdings, self.buckets = storage, holdings, buckets
        self._spill = tempfile.TemporaryDirectory(prefix="mpsr-ledger-")
        self.connection = duckdb.connect(
            config={
                "memory_limit": f"{limits.memory_mb}MB",
                "threads": limits.threads,
                "temp_directory": self._spill.name,
                "preserve_insertion_order": False,
                "autoinstall_known_extensions": False,
            }
        )
        self.connection.execute("SET TimeZone = 'UTC'")
        if storage.filesystem is not None:
            self.connection.register_filesystem(storage.filesystem)
        self._its_errors = duckdb.Error
        self._has_fresh_inventory, self._has_news = False, news is not None
        if news is not None:
            self.connection.register("news", news)

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.close()
        self._spill.cleanup()
        if isinstance(error, self._its_errors) and (bad := next(damaged_files(self.storage), None)):
            raise damaged(self.storage, bad) from error

    def table(self, sql: str, values: Sequence[Any] = ()) -> pa.Table:
        """The answer as an Arrow table."""
        return self.connection.sql(sql, params=list(values)).to_arrow_table()

    def counts(self, sql: str) -> dict[str, int]:
        """The answer of a two-column question: name and count."""
        return {str(name): int(count) for name, count in self.connection.execute(sql).fetchall()}

    def files(self, kind: str, paths: Sequence[str]) -> str:
        """A SELECT over the files, of whatever age: columns they lack are NULL."""
        if not paths:
            return empty_select(kind)
        names = ", ".join(_quoted(self.storage.full_path(path)) for path in paths)
        return f"SELECT * FROM read_parquet([{names}], schema={duckdb_schema(kind)}, hive_partitioning=false)"

    def events(self, stage: str | None = None, buckets: Collection[int] | None = None) -> str:
        """Every event of a stage (or of all), of some buckets or of all."""
        held = [s for s in (*self.holdings.folded, *self.holdings.fresh) if s.kind != INVENTORY]
        return self.files(
            stage or "",
            [s.path for s in held if stage in (None, s.kind) and (buckets is None or s.bucket in buckets)],
        )

    def latest(self, stage: str | None = None, buckets: Collection[int] | None = None) -> str:
        """The last row, by (token, seq), of every (image, face, stage)."""
        stages = self.holdings.stages if stage is None else [stage]
        old = [path for s in stages for path in self.holdings.snapshot_of(s, buckets)]
        new = [path for s in stages for path in self.holdings.fresh_of(s, buckets)]
        if not new:
            return self.files("", old)
        fresh = f"{self.files('', new)} {_LAST}"
        if not old:
            return fresh
        # each file is read twice rather than kept: DuckDB would hold what two parts of a question share
        return f"""
            WITH f AS MATERIALIZED ({fresh}), s AS NOT MATERIALIZED ({self.files("", old)}),
            rivals AS MATERIALIZED (SELECT {_KEY}, token, seq FROM s SEMI JOIN f USING ({_KEY})),
            winners AS MATERIALIZED (
                SELECT * FROM f ANTI JOIN rivals r ON f.image_id = r.image_id AND f.face = r.face
                AND f.stage = r.stage AND (r.token, r.seq) > (f.token, f.seq))
            SELECT * FROM s ANTI JOIN winners USING ({_KEY})
            UNION ALL
            SELECT * FROM winners"""

    def commits(self, buckets: Collection[int] | None = None) -> str:
        """The verdict rows: stage 'commit', face -1."""
        return f"SELECT * FROM ({self.latest(COMMIT, buckets)}) WHERE face = -1"

    def inventory(self, buckets: Collection[int] | None = None) -> str:
        """The last row of every path; `present` is False where the file is gone."""
        old = self.files(INVENTORY, self.holdings.snapshot_of(INVENTORY, buckets))
        if not self._gather_fresh_inventory():
            return old
        where = "" if buckets is None else f"WHERE bucket IN ({', '.join(map(str, buckets))})"
        return f"""
            SELECT s.* FROM ({old}) s ANTI JOIN fresh_inventory f ON s.path = f.path
            UNION ALL
            SELECT * EXCLUDE (bucket, old_bucket) FROM fresh_inventory {where}"""

    def groups(self, kinds: Collection[str], among: Iterable[int] | None = None) -> list[list[int]]:
        """Buckets put together so that one question holds a bounded number of rows in memory."""
        sizes = dict.fromkeys(range(self.buckets) if among is None else sorted(among), 0)
        everywhere = 0
        for segment in (*self.holdings.snapshot, *self.holdings.fresh):
            if segment.kind in kinds and segment.bucket is None:
                everywhere += segment.bytes // self.buckets
            elif segment.kind in kinds and segment.bucket in sizes:
                sizes[segment.bucket] += segment.bytes
        groups: list[list[int]] = []
        room = 0
        for bucket, size in sizes.items():
            if not groups or room < size + everywhere:
                groups.append([])
                room = _GROUP_BYTES
            groups[-1].append(bucket)
            room -= size + everywhere
        return groups

    def inventory_buckets_to_rewrite(self) -> set[int]:
        """Buckets that newer inventory rows enter or leave."""
        if not self._gather_fresh_inventory():
            return set()
        found = self.connection.execute(
            "SELECT bucket FROM fresh_inventory UNION SELECT old_bucket FROM fresh_inventory"
        ).fetchall()
        return {bucket for (bucket,) in found if bucket is not None}

    def _gather_fresh_inventory(self) -> bool:
        """Fold the newer inventory rows into a table: per path the last row, since when, and what was there before."""
        written = self.holdings.fresh_of(INVENTORY)
        if self._has_fresh_inventory or not (written or self._has_news):
            return self._has_fresh_inventory
        new = self.files(INVENTORY, written) + (" UNION ALL SELECT * FROM news" if self._has_news else "")
        old = self.files(INVENTORY, self.holdings.snapshot_of(INVENTORY))
        self.connection.execute(_FRESH_INVENTORY.format(new=new, old=old, bucket=bucket_sql(self.buckets)))
        self._has_fresh_inventory = True
        return True


# Most paths have one row: only those with several (by their hash, which costs a tenth of the memory) have a history.
_FRESH_INVENTORY = """
    CREATE TEMP TABLE fresh_inventory AS
    WITH new AS NOT MATERIALIZED (SELECT *, hash(path) AS h FROM ({new})),
    old AS MATERIALIZED (
        SELECT path, image_id, present, seq, since_seq, earlier_image_id, hash(path) AS h
        FROM ({old}) SEMI JOIN (SELECT h FROM new) n ON hash(path) = n.h),
    several AS MATERIALIZED (
        SELECT h FROM (SELECT h FROM new UNION ALL SELECT h FROM old) GROUP BY h HAVING count(*) > 1),
    rows AS MATERIALIZED (SELECT * FROM new SEMI JOIN several USING (h)),
    history AS (
        SELECT path, image_id, present, seq, seq AS since, NULL::VARCHAR AS earlier FROM rows
        UNION ALL SELECT path, image_id, present, seq, since_seq, earlier_image_id FROM old),
    final AS (SELECT path, arg_max(image_id, seq) AS last_id, max(seq) AS last_seq FROM history GROUP BY path),
    past AS (
        SELECT path, max(seq) FILTER (image_id <> last_id OR NOT present) AS broken,
               coalesce(arg_max(image_id, seq) FILTER (image_id <> last_id),
                        arg_max(earlier, seq) FILTER (earlier <> last_id)) AS earlier
        FROM history JOIN final USING (path) GROUP BY path),
    start AS (
        SELECT path, min(since) FILTER (seq > coalesce(broken, -1)) AS since
        FROM history JOIN past USING (path) GROUP BY path)
    SELECT * EXCLUDE (h) REPLACE (seq AS since_seq, NULL AS earlier_image_id),
           {bucket} AS bucket, NULL::INTEGER AS old_bucket
    FROM new ANTI JOIN several USING (h)
    UNION ALL
    SELECT rows.* EXCLUDE (h) REPLACE (coalesce(start.since, rows.seq) AS since_seq, past.earlier AS earlier_image_id),
           {bucket} AS bucket, old_bucket
    FROM rows JOIN final ON rows.path = final.path AND rows.seq = final.last_seq
    JOIN past ON past.path = rows.path JOIN start ON start.path = rows.path
    LEFT JOIN (SELECT path, {bucket} AS old_bucket FROM old) o ON o.path = rows.path"""


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
