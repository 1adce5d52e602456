"""What was decided about every picture, written down before a file moves: promotions/<id>.json and <id>.parquet.

The JSON file says how far a promotion is and why it was decided so; the table has a row per picture. Both say enough
to finish a promotion that was cut short, and to take it back.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ConfigDict, Field

from flows.jobs import JobError, workspace_at
from infra.facts import Facts
from infra.ledger import COMMIT, Event, listing
from infra.settings import Promotion
from infra.storage import Storage
from tasks.comparing import Action, DecisionFacts, PromotionState, PromotionTold

PROMOTIONS, SUPERSEDED, CANDIDATES = "promotions", "superseded", "candidates"
"""Folders of a workspace: what was decided, older results that were replaced, trees of new results."""
REMEMBERED = (
    *("state", "attempt", "reason_code", "reason", "detail", "output_uri", "output_sha256", "outcome"),
    *("stage_digest", "run_id", "token", "seq"),
)
"""What is written down of the verdict that stood."""
AT_ONCE = 10_000
"""Pictures held in memory while a table is written."""
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
"""One row per picture, ordered by bucket: the fields of `Move`, `old` as JSON or null."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """What is to become of a picture.

    paths: that held it then. planned: why the night took it on. why: why it was decided so. differs: whether the two
    results are different files. old: the verdict that stood when this was decided; None where there was none.
    """

    image_id: str
    bucket: int
    paths: tuple[str, ...]
    planned: str
    action: Action
    why: str
    differs: bool
    old: Event | None

    @property
    def older(self) -> Event:
        """The verdict that stood. Raises LookupError where there was none: nothing is promoted over or kept there."""
        if self.old is None:
            raise LookupError(f"picture {self.image_id} had no verdict before this promotion")
        return self.old


class Bounds(Promotion):
    """The bounds that were kept to, as some version knew them."""

    model_config = ConfigDict(extra="ignore")


class Journal(Facts):
    """How far a promotion is, what was decided and why.

    id: of the run that decided. digest: of the recipe whose results are the new ones. candidate: the workspace of the
    new results, relative to this one. created, changed: ISO 8601; `changed` is when the state was reached. counts:
    action → pictures. reasons: why older results stay → pictures, by the first words. again: of a rollback, whether
    the next night may decide anew. moved_on: pictures that something else had dealt with before this promotion came to
    them.
    """

    model_config = ConfigDict(frozen=False)

    id: str
    state: PromotionState = "planned"
    digest: str
    recipe: str
    candidate: str
    created: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    changed: str = ""
    counts: dict[str, int] = Field(default_factory=dict)
    reasons: dict[str, int] = Field(default_factory=dict)
    again: bool = False
    moved_on: int = 0
    decision: DecisionFacts = Field(default_factory=DecisionFacts)
    bounds: Bounds = Field(default_factory=Bounds)

    @property
    def is_begun(self) -> bool:
        """Whether it was cut short."""
        return self.state in ("planned", "rolling_back")

    def told(self) -> PromotionTold:
        """In a few words, for status."""
        return PromotionTold(
            id=self.id,
            state=self.state,
            created=self.created,
            changed=self.changed,
            recipe=self.recipe,
            counts=self.counts,
            moved_on=self.moved_on,
            promoted=self.decision.promote,
            refused_because=self.decision.refused_because,
        )


class Promotions(Facts):
    """All promotions of a workspace, oldest first."""

    promotions: tuple[PromotionTold, ...]


class RolledBack(Facts, PromotionTold):
    """A promotion that was taken back. pictures: how many have their older result again."""

    pictures: int


def write(storage: Storage, journal: Journal, state: PromotionState | None = None) -> None:
    """Writes the journal, in another state if one is given."""
    if state is not None:
        journal.state, journal.changed = state, datetime.now(UTC).isoformat(timespec="seconds")
    storage.write_atomic(f"{PROMOTIONS}/{journal.id}.json", journal.to_json())


def write_moves(storage: Storage, promotion: str, moves: Iterable[Move]) -> None:
    """Writes the table of a promotion."""
    sink, rest = io.BytesIO(), iter(moves)
    with pq.ParquetWriter(sink, ROWS, compression="zstd") as writer:
        while part := list(islice(rest, AT_ONCE)):
            rows = [{name: getattr(move, name) for name in ROWS.names} | {"old": _as_json(move.old)} for move in part]
            writer.write_table(pa.Table.from_pylist(rows, ROWS))
    storage.write_atomic(f"{PROMOTIONS}/{promotion}.parquet", sink.getbuffer())


def read_moves(storage: Storage, promotion: str, most: int) -> Iterator[list[Move]]:
    """The table of a promotion, at most so many pictures at a time and of one bucket only."""
    data = pa.BufferReader(storage.read_bytes(f"{PROMOTIONS}/{promotion}.parquet"))
    held: list[Move] = []
    for batch in pq.ParquetFile(data).iter_batches(most):
        for row in batch.to_pylist():
            old = row["old"] and _from_json(row["old"], row["image_id"])
            move = Move(**row | {"paths": tuple(row["paths"]), "old": old})
            if held and (len(held) == most or held[0].bucket != move.bucket):
                yield held
                held = []
            held.append(move)
    if held:
        yield held


def every(storage: Storage) -> list[Journal]:
    """All promotions of a workspace, oldest first."""
    names = [info.path for info in listing(storage, PROMOTIONS) if info.path.count("/") == 1]
    return [Journal.model_validate_json(storage.read_bytes(name)) for name in sorted(names) if name.endswith(".json")]


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


def told(workspace: str) -> Promotions:
    """All promotions of a workspace in a few words each."""
    return Promotions(promotions=tuple(journal.told() for journal in every(workspace_at(workspace))))


def _as_json(verdict: Event | None) -> str | None:
    """What is remembered of a verdict; its detail is a text within the text, as in the ledger."""
    if verdict is None:
        return None
    remembered = {name: getattr(verdict, name) for name in REMEMBERED}
    return json.dumps(remembered | {"detail": json.dumps(dict(verdict.detail))})


def _from_json(text: str, image_id: str) -> Event:
    """The verdict that `_as_json` wrote down, in this version or an earlier one."""
    read = json.loads(text)
    detail = json.loads(read["detail"] or "{}")
    return Event(image_id=image_id, stage=COMMIT, **{name: read[name] for name in REMEMBERED} | {"detail": detail})
