"""What may stand in the ledger: states and legal transitions, buckets, checked segments. Reads and writes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from infra.ledger.rows import Event, FileRow, Record, columns_of, table_of
from infra.problems import ForPeople

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


class LedgerError(ForPeople):
    """The ledger cannot do what was asked; the message says what was expected, what came, and what to do."""


class LedgerUnreadable(LedgerError):
    """There is no ledger, or a newer version wrote it."""

    exit_code = 2


def record_of(kind: str) -> type[Event] | type[FileRow]:
    """What the rows of the inventory, or of a stage, are."""
    return FileRow if kind == INVENTORY else Event


def duckdb_schema(kind: str) -> str:
    """The `schema` argument of DuckDB's read_parquet for the inventory or a stage: absent columns read as NULL."""
    fields = (
        f"{place}: {{name: '{name}', type: '{column.duckdb}', default_value: NULL}}"
        for place, (name, column) in enumerate(columns_of(record_of(kind)).items(), start=1)
    )
    return f"MAP {{{', '.join(fields)}}}"


def empty_select(kind: str) -> str:
    """A SELECT of no rows with the columns of the inventory or of a stage."""
    columns = columns_of(record_of(kind)).items()
    return f"SELECT {', '.join(f'NULL::{column.duckdb} AS {name}' for name, column in columns)} WHERE false"


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
    rows: Sequence[Event], *, seq: range, run_id: str, token: int, stage: str, bucket: int, buckets: int
) -> pa.Table:
    """Events as one segment; run_id, token, stage, seq and, where they are absent, `finished` are filled in.

    Raises LedgerError for unknown states, ids of another bucket, or a verdict without outcome.
    """
    if stage == INVENTORY:
        raise LedgerError("no stage can be called 'inventory': the ledger keeps the inventory under that name")
    for row in rows:
        _check_event(row, stage, bucket, buckets)
    now = datetime.now(UTC)
    timed = [row if row.finished else replace(row, finished=now) for row in rows]
    return _table(Event, timed, run_id=run_id, token=token, stage=stage, seq=seq)


def inventory_table(rows: Sequence[FileRow], *, seq: range, run_id: str) -> pa.Table:
    """Files as one segment; run_id, seq and the time at which they were seen are filled in."""
    return _table(FileRow, rows, run_id=run_id, seen=datetime.now(UTC), seq=seq)


def _table(record: type[Record], rows: Sequence[Record], **same: Any) -> pa.Table:
    try:
        return table_of(record, rows, **same)
    except ValueError as error:
        raise LedgerError(str(error)) from error


def _check_event(row: Event, stage: str, bucket: int, buckets: int) -> None:
    image_id, state = row.image_id, row.state
    if bucket_of(image_id, buckets) != bucket:
        raise LedgerError(f"image {image_id} lies in bucket {bucket_of(image_id, buckets)}, not in {bucket}")
    if state not in STATES:
        raise LedgerError(f"state {state!r} of image {image_id} is unknown: expected one of {', '.join(STATES)}")
    if stage == COMMIT and row.outcome is None and state not in OPEN_STATES:
        raise LedgerError(f"the commit row of image {image_id} is {state!r} without outcome: a verdict needs one")
