"""What the ledger's Parquet files hold: columns, states, legal transitions, buckets. Reads and writes nothing.

Columns are only ever added at the end, nullable; field ids tie a column to its place for ever, so that segments of
every age are read together.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT_VERSION = 1
INVENTORY = "inventory"
COMMIT = "commit"
"""The stage whose row with face -1 is the verdict on the whole image."""

STATES = (
    "discovered",
    "pending",
    "running",
    "done",
    "done_fallback",
    "skipped",
    "rejected_identity",
    "failed_retryable",
    "quarantined",
    "superseded",
)
OPEN_STATES = ("discovered", "pending", "running", "superseded")
"""Work is still to be done; every other state is a verdict and carries an outcome."""
DELIVERED_STATES = ("done", "done_fallback", "skipped", "rejected_identity")
"""Verdicts after which a file lies in the restored tree (a changed one or a copy)."""

_VERDICTS = tuple(state for state in STATES if state not in OPEN_STATES)
TRANSITIONS: dict[str, tuple[str, ...]] = {
    "discovered": ("pending", "running", *_VERDICTS),
    "pending": ("pending", "running", "superseded", *_VERDICTS),
    "running": ("running", "pending", *_VERDICTS),
    "failed_retryable": ("pending", "running", "superseded", *_VERDICTS),
    "superseded": ("pending", "running", *_VERDICTS),
    **dict.fromkeys((*DELIVERED_STATES, "quarantined"), ("pending", "superseded")),
}
"""state → the states that may follow under the same stage digest. No row yet counts as 'discovered'; `running` may
follow itself because its owner may have died. Under another digest everything may follow: that is a rerun."""

# name, type, DuckDB type; a column's field id is its place in this list, counted from 1
_EVENT_COLUMNS = (
    ("image_id", "string", "VARCHAR"),
    ("face", "int16", "SMALLINT"),
    ("stage", "string", "VARCHAR"),
    ("stage_key", "string", "VARCHAR"),
    ("stage_digest", "string", "VARCHAR"),
    ("state", "string", "VARCHAR"),
    ("attempt", "int16", "SMALLINT"),
    ("reason_code", "string", "VARCHAR"),
    ("reason", "string", "VARCHAR"),
    ("metrics", "map", "MAP(VARCHAR, DOUBLE)"),
    ("detail", "string", "VARCHAR"),
    ("output_uri", "string", "VARCHAR"),
    ("output_sha256", "string", "VARCHAR"),
    ("run_id", "string", "VARCHAR"),
    ("worker", "string", "VARCHAR"),
    ("started", "timestamp", "TIMESTAMPTZ"),
    ("finished", "timestamp", "TIMESTAMPTZ"),
    ("device_ms", "double", "DOUBLE"),
    ("token", "int64", "BIGINT"),
    ("seq", "int64", "BIGINT"),
    ("outcome", "string", "VARCHAR"),
)
_INVENTORY_COLUMNS = (
    ("path", "string", "VARCHAR"),
    ("image_id", "string", "VARCHAR"),
    ("bytes", "int64", "BIGINT"),
    ("mtime_ns", "int64", "BIGINT"),
    ("etag", "string", "VARCHAR"),
    ("format", "string", "VARCHAR"),
    ("width", "int32", "INTEGER"),
    ("height", "int32", "INTEGER"),
    ("mode", "string", "VARCHAR"),
    ("problem", "string", "VARCHAR"),
    ("problem_text", "string", "VARCHAR"),
    ("present", "bool", "BOOLEAN"),
    ("run_id", "string", "VARCHAR"),
    ("seen", "timestamp", "TIMESTAMPTZ"),
    ("seq", "int64", "BIGINT"),
    ("since_seq", "int64", "BIGINT"),
    ("earlier_image_id", "string", "VARCHAR"),
)


class LedgerError(Exception):
    """The ledger cannot do what was asked; the message says what was expected, what came, and what to do."""


def event_columns() -> list[str]:
    """Names of an event row's columns, in order."""
    return [name for name, _, _ in _EVENT_COLUMNS]


def inventory_columns() -> list[str]:
    """Names of an inventory row's columns; the fold fills `since_seq` (the seq since when the path holds this
    content) and `earlier_image_id` (what the path held before)."""
    return [name for name, _, _ in _INVENTORY_COLUMNS]


@cache
def event_schema() -> pa.Schema:
    """Arrow schema of event segments and of the snapshot's `latest`."""
    return _arrow(_EVENT_COLUMNS)


@cache
def inventory_schema() -> pa.Schema:
    """Arrow schema of inventory segments and of the snapshot's `inventory`."""
    return _arrow(_INVENTORY_COLUMNS)


def duckdb_schema(kind: str) -> str:
    """The `schema` argument of DuckDB's read_parquet for the inventory or a stage: absent columns read as NULL."""
    columns = _INVENTORY_COLUMNS if kind == INVENTORY else _EVENT_COLUMNS
    fields = (
        f"{place}: {{name: '{name}', type: '{sql}', default_value: NULL}}"
        for place, (name, _, sql) in enumerate(columns, start=1)
    )
    return f"MAP {{{', '.join(fields)}}}"


def empty_select(kind: str) -> str:
    """A SELECT of no rows with the columns of the inventory or of a stage."""
    columns = _INVENTORY_COLUMNS if kind == INVENTORY else _EVENT_COLUMNS
    return f"SELECT {', '.join(f'NULL::{sql} AS {name}' for name, _, sql in columns)} WHERE false"


def bucket_sql(buckets: int) -> str:
    """`bucket_of(image_id)` as a DuckDB expression; the product needs 64 bits."""
    return f"((('0x' || image_id[1:4])::BIGINT * {buckets}) >> 16)::INTEGER"


def bucket_of(image_id: str, buckets: int) -> int:
    """The first bits of the image id: where a thing lies is a function of its content alone.

    `buckets` is a power of two up to 65,536. Raises ValueError where the id is no hex string.
    """
    return int(image_id[:4], 16) * buckets >> 16


def buckets_for(images: int) -> int:
    """A bucket count that suits an archive: about 150,000 images in each, between 1 and 256."""
    count = 1
    while count < 256 and count * 150_000 < images:
        count *= 2
    return count


def unreadable_id(ledger_path: str) -> str:
    """The image id of a file whose bytes could not be read: it stands for the path."""
    return hashlib.sha256(b"unreadable\0" + ledger_path.encode()).hexdigest()


def event_table(
    rows: Sequence[Mapping[str, Any]], *, run_id: str, token: int, stage: str, bucket: int, buckets: int
) -> pa.Table:
    """Rows as one segment. Fills run_id, token, stage, seq and, where they are absent, face -1, attempt 1,
    finished now, and the outcome from a commit row's detail.

    Raises LedgerError for unknown keys or states, ids of another bucket, or a verdict without outcome.
    """
    present = _known(rows, event_columns())
    if stage == INVENTORY:
        raise LedgerError("no stage can be called 'inventory': the ledger keeps the inventory under that name")
    for row in rows:
        _check_event(row, bucket, buckets)
    lists: dict[str, Sequence[Any]] = {"seq": _seqs(len(rows))}
    if stage == COMMIT:
        lists["outcome"] = [_outcome(row) for row in rows]
    return _table(
        rows,
        event_schema(),
        present,
        same={"run_id": run_id, "token": token, "stage": stage},
        absent={"face": -1, "attempt": 1, "finished": datetime.now(UTC)},
        lists=lists,
    )


def inventory_table(rows: Sequence[Mapping[str, Any]], *, run_id: str) -> pa.Table:
    """Rows as one segment. Fills run_id, seq and, where they are absent, present True, seen now, and the image id
    of a file that could not be read."""
    present = _known(rows, inventory_columns())
    return _table(
        rows,
        inventory_schema(),
        present,
        same={"run_id": run_id},
        absent={"present": True, "seen": datetime.now(UTC)},
        lists={
            "seq": _seqs(len(rows)),
            "image_id": [row.get("image_id") or unreadable_id(row["path"]) for row in rows],
        },
    )


_seq_lock = threading.Lock()
_seq_last = 0


def next_seq(count: int, at_least: int = 0) -> int:
    """The first of `count` numbers that grow within the process and, clocks permitting, from run to run."""
    global _seq_last
    with _seq_lock:
        first = max(_seq_last + 1, time.time_ns() // 1_000, at_least)
        _seq_last = first + max(count, 1) - 1
        return first


def _arrow(columns: Iterable[tuple[str, str, str]]) -> pa.Schema:
    import pyarrow as pa

    types = {
        "string": pa.string(),
        "int16": pa.int16(),
        "int32": pa.int32(),
        "int64": pa.int64(),
        "double": pa.float64(),
        "bool": pa.bool_(),
        "timestamp": pa.timestamp("us", tz="UTC"),
        "map": pa.map_(pa.string(), pa.float64()),
    }
    return pa.schema(
        [
            pa.field(name, types[kind], metadata={"PARQUET:field_id": str(place)})
            for place, (name, kind, _) in enumerate(columns, start=1)
        ]
    )


def _table(
    rows: Sequence[Mapping[str, Any]],
    schema: pa.Schema,
    present: set[str],
    *,
    same: Mapping[str, Any],
    absent: Mapping[str, Any],
    lists: Mapping[str, Sequence[Any]],
) -> pa.Table:
    """Rows as columns: `same` value for all rows, ready-made `lists`, or the rows' own with `absent` for defaults."""
    import pyarrow as pa

    def column(name: str, kind: pa.DataType) -> pa.Array:
        if name in same or name not in present | set(lists):
            return pa.repeat(pa.scalar(same.get(name, absent.get(name)), kind), len(rows))
        default = absent.get(name)
        values = lists.get(name) or [row.get(name, default) for row in rows]
        if pa.types.is_map(kind):
            values = [value and list(value.items()) for value in values]
        return pa.array(values, kind)

    columns = []
    for field in schema:
        try:
            columns.append(column(field.name, field.type))
        except (pa.ArrowException, UnicodeError) as error:
            raise LedgerError(f"column {field.name!r} takes {field.type}: {error}") from error
    return pa.table(columns, schema=schema)


def _seqs(count: int) -> range:
    first = next_seq(count)
    return range(first, first + count)


def _known(rows: Sequence[Mapping[str, Any]], columns: list[str]) -> set[str]:
    """The keys that occur."""
    present = {key for row in rows for key in row}
    unknown = present.difference(columns)
    if unknown:
        raise LedgerError(f"unknown columns {sorted(unknown)}: expected some of {columns}")
    return present


def _check_event(row: Mapping[str, Any], bucket: int, buckets: int) -> None:
    image_id, state = row["image_id"], row.get("state")
    if bucket_of(image_id, buckets) != bucket:
        raise LedgerError(f"image {image_id} lies in bucket {bucket_of(image_id, buckets)}, not in {bucket}")
    if state not in STATES:
        raise LedgerError(f"state {state!r} of image {image_id} is unknown: expected one of {', '.join(STATES)}")


def _outcome(row: Mapping[str, Any]) -> str | None:
    outcome = row.get("outcome") or json.loads(row.get("detail") or "{}").get("outcome")
    if outcome is None and row["state"] not in OPEN_STATES:
        raise LedgerError(
            f"the commit row of image {row['image_id']} is {row['state']!r} without outcome: expected it in the row "
            "or its detail"
        )
    return outcome if outcome is None else str(outcome)
