"""What was decided about every picture, written down before a file moves: promotions/<id>.json and <id>.parquet.

The JSON file says how far a promotion is and why it was decided so; the table has a row per picture. Both say enough
to finish a promotion that was cut short, and to take it back.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from flows.jobs import JobError
from infra.ledger import listing
from infra.storage import Storage

PROMOTIONS, SUPERSEDED, CANDIDATES = "promotions", "superseded", "candidates"
"""Folders of a workspace: what was decided, older results that were replaced, trees of new results."""
State = Literal["planned", "applied", "abandoned", "rolling_back", "rolled_back"]
Row = dict[str, Any]

ROWS = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("bucket", pa.int32(), nullable=False),
        pa.field("paths", pa.list_(pa.string()), nullable=False),
        pa.field("planned", pa.string(), nullable=False),
        pa.field("action", pa.string(), nullable=False),
        pa.field("why", pa.string(), nullable=False),
        pa.field("differs", pa.bool_(), nullable=False),
        pa.field("old", pa.string()),
    ]
)
"""One row per picture, ordered by bucket. planned: why the night took it on. differs: whether the two results are
different files. old: the verdict that stood when this was decided, as JSON; null where there was none."""


class Journal(BaseModel):
    """How far a promotion is, what was decided and why."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int = 1
    id: str
    """The id of the run that decided."""
    state: State = "planned"
    digest: str
    """Of the recipe whose results are the new ones."""
    recipe: str
    candidate: str
    """The workspace of the new results, relative to this one."""
    created: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    changed: str = ""
    """When the state was reached."""
    counts: dict[str, int] = Field(default_factory=dict)
    """action → pictures."""
    reasons: dict[str, int] = Field(default_factory=dict)
    """Why older results stay → pictures, by the first words."""
    again: bool = False
    """Of a rollback: whether the next night may decide anew."""
    moved_on: int = 0
    """Pictures that something else had dealt with before this promotion came to them."""
    decision: dict[str, Any] = Field(default_factory=dict)
    bounds: dict[str, Any] = Field(default_factory=dict)

    @property
    def is_begun(self) -> bool:
        """Whether it was cut short."""
        return self.state in ("planned", "rolling_back")

    def told(self) -> dict[str, Any]:
        """In a few words, for status."""
        promoted = bool(self.decision.get("promote"))
        kept = ("id", "state", "created", "changed", "recipe", "counts", "moved_on")
        checks = [check["said"] for check in self.decision.get("checks", []) if not check["passed"]]
        return {name: getattr(self, name) for name in kept} | {"promoted": promoted, "refused_because": checks}


def write(storage: Storage, journal: Journal, state: State | None = None) -> None:
    """Writes the journal, in another state if one is given."""
    if state is not None:
        journal.state, journal.changed = state, datetime.now(UTC).isoformat(timespec="seconds")
    storage.write_atomic(f"{PROMOTIONS}/{journal.id}.json", json.dumps(journal.model_dump(), indent=1).encode())


def write_rows(storage: Storage, promotion: str, rows: Iterable[Row], at_once: int = 10_000) -> None:
    """Writes the table of a promotion; rows are dicts with the columns of ROWS."""
    sink, held = io.BytesIO(), list[Row]()
    with pq.ParquetWriter(sink, ROWS, compression="zstd") as writer:
        for row in rows:
            held.append(row)
            if len(held) == at_once:
                writer.write_table(pa.Table.from_pylist(held, ROWS))
                held.clear()
        writer.write_table(pa.Table.from_pylist(held, ROWS))
    storage.write_atomic(f"{PROMOTIONS}/{promotion}.parquet", sink.getbuffer())


def read_chunks(storage: Storage, promotion: str, most: int) -> Iterator[list[Row]]:
    """The rows of a promotion, at most so many at a time and of one bucket only."""
    data = pa.BufferReader(storage.read_bytes(f"{PROMOTIONS}/{promotion}.parquet"))
    held: list[Row] = []
    for batch in pq.ParquetFile(data).iter_batches(most):
        for row in batch.to_pylist():
            if held and (len(held) == most or held[0]["bucket"] != row["bucket"]):
                yield held
                held = []
            held.append(row)
    if held:
        yield held


def every(storage: Storage) -> list[Journal]:
    """All promotions of a workspace, oldest first."""
    names = [info.path for info in listing(storage, PROMOTIONS) if info.path.count("/") == 1]
    found = [json.loads(storage.read_bytes(name)) for name in sorted(names) if name.endswith(".json")]
    return [Journal.model_validate(each) for each in found]


def find(storage: Storage, promotion: str | None) -> Journal:
    """The named promotion, or the newest that promoted something and still stands. Raises JobError."""
    journals = every(storage)
    if promotion is None:
        standing = [
            j for j in journals if j.state in ("planned", "applied", "rolling_back") and j.counts.get("promote")
        ]
        if not standing:
            raise JobError(f"no promotion stands in {storage.shown_url}; `mpsr promotions` lists what was decided")
        return standing[-1]
    named = [journal for journal in journals if journal.id == promotion]
    if not named:
        known = ", ".join(journal.id for journal in journals) or "none"
        raise JobError(f"{storage.shown_url} has no promotion {promotion!r}; known are {known}")
    return named[0]


def told(workspace: str) -> list[dict[str, Any]]:
    """All promotions of a workspace in a few words each, oldest first."""
    return [journal.told() for journal in every(Storage(workspace))]
