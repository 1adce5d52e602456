"""The records of an evaluation: pairs of pictures, the faces in them, what a worker is asked and what it answers.

An answer holds the rows that the ledger will keep: they are made once, where the work is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue, TypeAdapter

from infra.ledger import Event
from tasks.recipes import stage_key
from tasks.stage import WHOLE_IMAGE, Detail

RESTORED, INPUT, TRUTH = "restored", "input", "truth"
ROLES = (RESTORED, INPUT, TRUTH)
FACES, FID = "faces", "fid"
"""What a pair goes through before any metric: where its faces lie; and the metric that leaves features, no number."""


@dataclass(frozen=True, slots=True)
class PairFile:
    """A picture of a pair. path: its name in the ledger, relative to its folder. sha256: of its bytes."""

    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Pair:
    """A restored file with what belongs to it; what it lacks is None.

    key: `path` without suffix, or with it where that does not tell files apart. problem, problem_text: why the pair
    cannot be measured, as far as names and headers tell; "" where it can. points: ten numbers of the data set's table.
    square: all its pictures are 512 × 512.
    """

    path: str
    key: str
    subset: str
    pair_id: str
    restored_sha256: str
    input_path: str | None
    input_sha256: str | None
    truth_path: str | None
    truth_sha256: str | None
    problem: str
    problem_text: str
    points: Sequence[float] | None
    square: bool

    @property
    def files(self) -> dict[str, PairFile]:
        """Role → picture, of those that are there."""
        named = {
            RESTORED: (self.path, self.restored_sha256),
            INPUT: (self.input_path, self.input_sha256),
            TRUTH: (self.truth_path, self.truth_sha256),
        }
        return {role: PairFile(path, sha256) for role, (path, sha256) in named.items() if path and sha256}


@dataclass(frozen=True, slots=True)
class Located:
    """One face of a pair: landmarks in its crop (5, 2); matrix (2, 3) from the picture, None where it is the crop."""

    points: NDArray[np.float64]
    matrix: NDArray[np.float64] | None = None

    def to_detail(self) -> Detail:
        """Plain numbers, row by row."""
        return {"points": _plain(self.points), "matrix": None if self.matrix is None else _plain(self.matrix)}

    @classmethod
    def from_detail(cls, detail: Detail) -> Located:
        """The inverse of `to_detail`."""
        matrix = None if detail["matrix"] is None else np.array(detail["matrix"], np.float64).reshape(2, 3)
        return cls(np.array(detail["points"], np.float64).reshape(5, 2), matrix)


def _plain(numbers: NDArray[np.float64]) -> list[JsonValue]:
    return [float(number) for number in numbers.reshape(-1)]


@dataclass(frozen=True, slots=True)
class PairItem:
    """A pair to be measured. lacking: stages that the ledger has no rows of. faces: where they are known already."""

    key: str
    """The pair's id."""
    files: Mapping[str, PairFile]
    lacking: tuple[str, ...]
    points: Sequence[float] | None = None
    faces: tuple[Located, ...] = ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics among what is lacking."""
        return tuple(stage for stage in self.lacking if stage != FACES)


@dataclass(frozen=True, slots=True)
class PairResult:
    """What came of a pair (face −1) or of one face in it, and the file that the micro-batch left."""

    key: str
    face: int
    reason_code: str
    events: tuple[Event, ...]
    checkpoint: str | None = None
    reused: bool = False
    """Read from what an earlier run left instead of computed."""

    def to_json(self) -> str:
        """One JSON object; `from_json` reads it again."""
        return _RESULT.dump_json(self, exclude_defaults=True).decode()

    @classmethod
    def from_json(cls, text: str) -> PairResult:
        """Raises pydantic.ValidationError for text that no version wrote."""
        return _RESULT.validate_json(text)


_RESULT = TypeAdapter(PairResult)


def at_stage(event: Event, stage: str, digests: Mapping[str, str]) -> Event:
    """The event as one of that stage."""
    key = stage_key(event.image_id, event.face, digests[stage])
    return replace(event, stage=stage, stage_digest=digests[stage], stage_key=key)


def result_of_whole(item: PairItem, event: Event, digests: Mapping[str, str]) -> PairResult:
    """The result of the pair as a whole: that its faces are known, or why nothing of what it lacks can be had."""
    stages = [stage for stage in item.lacking if stage == FACES or event.state != "done"]
    events = tuple(at_stage(event, stage, digests) for stage in stages)
    return PairResult(item.key, WHOLE_IMAGE, event.reason_code or "", events)


def given_up(item: PairItem, reason_code: str, reason: str, digests: Mapping[str, str]) -> PairResult:
    """The result of a pair that no worker could finish; another evaluation tries it again."""
    now = datetime.now(UTC)
    said = Event(image_id=item.key, state="failed_retryable", reason_code=reason_code, reason=reason)
    return result_of_whole(item, replace(said, started=now, finished=now), digests)
