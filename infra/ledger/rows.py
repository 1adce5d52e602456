"""The rows of the ledger as records, and the only way between them and Arrow.

Tables of millions stay Arrow; records exist for one shard, one bucket, one page at a time. A column is declared
once, as a field: its place gives the field id in the Parquet files for ever, so new fields go to the end, with a
default.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar, get_args, get_type_hints

from pydantic import JsonValue

if TYPE_CHECKING:
    import pyarrow as pa


class Column(NamedTuple):
    """How a field is stored: the name of its Arrow type, and its type in DuckDB's SQL."""

    arrow: str
    duckdb: str


Text = Annotated[str, Column("string", "VARCHAR")]
MaybeText = Annotated[str | None, Column("string", "VARCHAR")]
Int16 = Annotated[int, Column("int16", "SMALLINT")]
MaybeInt32 = Annotated[int | None, Column("int32", "INTEGER")]
Int64 = Annotated[int, Column("int64", "BIGINT")]
MaybeInt64 = Annotated[int | None, Column("int64", "BIGINT")]
Flag = Annotated[bool, Column("bool", "BOOLEAN")]
Time = Annotated[datetime | None, Column("timestamp", "TIMESTAMPTZ")]
Metrics = Mapping[str, float]
Detail = Mapping[str, JsonValue]
"""What a stage wants to keep beside numbers, as JSON; the stage knows what it holds."""


@dataclass(kw_only=True)
class Event:
    """What became of one face (or image, face −1) at one stage, at one time.

    Nobody assigns to its fields; `dataclasses.replace` makes another. Millions are made and travel from workers to the
    driver: not frozen they are made in a quarter of the time, and without slots pickled in a third.
    """

    image_id: Text
    face: Int16 = -1
    stage: Text = ""
    stage_key: MaybeText = None
    stage_digest: MaybeText = None
    state: Text
    attempt: Int16 = 1
    reason_code: MaybeText = None
    reason: MaybeText = None
    metrics: Annotated[Metrics, Column("map", "MAP(VARCHAR, DOUBLE)")] = field(default_factory=dict)
    detail: Annotated[Detail, Column("string", "VARCHAR")] = field(default_factory=dict)
    output_uri: MaybeText = None
    output_sha256: MaybeText = None
    run_id: Text = ""
    worker: MaybeText = None
    started: Time = None
    finished: Time = None
    device_ms: Annotated[float | None, Column("double", "DOUBLE")] = None
    token: Int64 = 0
    seq: Int64 = 0
    outcome: MaybeText = None
    """What a verdict means for the files of its image; only commit rows have one."""
    output_bytes: MaybeInt64 = None
    """Of the file whose sha256 is `output_sha256`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRow:
    """What a scan saw at one path of the archive."""

    path: Text
    image_id: Text
    bytes: MaybeInt64 = None
    mtime_ns: MaybeInt64 = None
    etag: MaybeText = None
    format: MaybeText = None
    width: MaybeInt32 = None
    height: MaybeInt32 = None
    """Pixels as stored, before orientation."""
    mode: MaybeText = None
    problem: MaybeText = None
    """Why the file cannot be an input: one of the reason codes; None where it can."""
    problem_text: MaybeText = None
    present: Flag = True
    run_id: Text = ""
    seen: Time = None
    seq: Int64 = 0
    since_seq: MaybeInt64 = None
    """The seq since when the path holds this content; the fold fills it."""
    earlier_image_id: MaybeText = None
    """What the path held before; the fold fills it."""


Record = TypeVar("Record", Event, FileRow)


def _columns(record: type[Event] | type[FileRow]) -> dict[str, Column]:
    hints = get_type_hints(record, include_extras=True)
    return {each.name: get_args(hints[each.name])[-1] for each in fields(record)}


_COLUMNS = {record: _columns(record) for record in (Event, FileRow)}


def columns_of(record: type[Event] | type[FileRow]) -> dict[str, Column]:
    """Name → storage of every column, in order."""
    return _COLUMNS[record]


def schema_of(record: type[Event] | type[FileRow]) -> pa.Schema:
    """The Arrow schema of segments and snapshots."""
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
            pa.field(name, types[column.arrow], metadata={"PARQUET:field_id": str(place)})
            for place, (name, column) in enumerate(columns_of(record).items(), start=1)
        ]
    )


def table_of(record: type[Record], rows: Sequence[Record], **same: Any) -> pa.Table:
    """Records as an Arrow table; a column named in `same` has that value (or, if it is a range, those) for all rows.

    Raises ValueError naming the column for a value that it does not take.
    """
    import pyarrow as pa

    def column(name: str, kind: pa.DataType) -> pa.Array:
        if name in same:
            value = same[name]
            return pa.array(value, kind) if isinstance(value, range) else pa.repeat(pa.scalar(value, kind), len(rows))
        try:
            return pa.array(_stored(name, map(attrgetter(name), rows)), kind)
        except (pa.ArrowException, UnicodeError) as error:
            raise ValueError(f"column {name!r} takes {kind}: {error}") from error

    schema = schema_of(record)
    return pa.table([column(each.name, each.type) for each in schema], schema=schema)


def events_of(table: pa.Table) -> Iterator[Event]:
    """The rows of a table with columns of the ledger's events, in order; columns it lacks have their defaults."""
    return _records_of(Event, table)


def files_of(table: pa.Table) -> Iterator[FileRow]:
    """The rows of a table with columns of the inventory, in order; columns it lacks have their defaults."""
    return _records_of(FileRow, table)


def file_at(table: pa.Table, place: int) -> FileRow:
    """One row of such a table; a slice of one row would cost `files_of` many times as much."""
    return FileRow(
        **{name: column[place].as_py() for name, column in zip(table.column_names, table.columns, strict=True)}
    )


def _records_of(record: type[Record], table: pa.Table) -> Iterator[Record]:
    names = [name for name in columns_of(record) if name in table.column_names]
    for batch in table.select(names).to_batches(max_chunksize=10_000):
        lists = [_read(name, column.to_pylist()) for name, column in zip(names, batch.columns, strict=True)]
        for values in zip(*lists, strict=True):
            yield record(**dict(zip(names, values, strict=True)))


def _stored(name: str, values: Iterable[Any]) -> list[Any]:
    if name == "metrics":
        return [list(value.items()) if value else None for value in values]
    if name == "detail":
        return [json.dumps(dict(value)) if value else None for value in values]
    return list(values)


def _read(name: str, values: Iterable[Any]) -> Collection[Any]:
    if name == "metrics":
        return [dict(value or ()) for value in values]
    if name == "detail":
        return [json.loads(value) if value else {} for value in values]
    return list(values)
