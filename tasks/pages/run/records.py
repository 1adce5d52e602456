"""What a report of a run says, as plain records: facts, totals, distributions, files, steps.

Everything here is bounded or counted, whatever the size of the archive; it knows nothing of ledgers, pixels or pages.
Paths are ledger names (relative to the source, bytes that are not UTF-8 percent-encoded).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tasks.archive import FileOutcome

MISSING = "not measured"
"""What the page says in place of a number that nobody measured. It is never 0."""

EVERYTHING = "everything"
"""`chosen` of every picture where all of them are shown."""

TROUBLES: tuple[FileOutcome, ...] = ("failed", "quarantined", "rejected_identity")
"""Outcomes that a person should look at; the first two make a run's exit code 1."""


@dataclass(frozen=True)
class RunFacts:
    """What is known of the run itself.

    `stages` are the recipe's stage ids in order. `stage_seconds` is the time that each stage took in this run on the
    wall (shards in flight overlap, so they may add up to more than `seconds`); a stage without an entry was not
    measured. `weights` maps names to sha256. `links` maps labels to addresses (the Prefect run); only http and https
    become links. `sample` is the share of the images whose stage rows the report was given (1: all of them).
    """

    run_id: str
    source: str
    workspace: str
    recipe: str
    recipe_digest: str
    started: datetime
    finished: datetime | None = None
    seconds: float | None = None
    description: str = ""
    stages: Sequence[str] = ()
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    software: str = ""
    device: str = ""
    sample: float = 1.0


@dataclass(frozen=True)
class Measure:
    """A metric as the page shows it: `before` and `after` name ledger metrics (`quality.input`); either may be None."""

    name: str
    before: str | None
    after: str | None
    higher_is_better: bool = True


@dataclass(frozen=True)
class Distribution:
    """Histogram of a measure over all faces. `edges` has one more entry than `before` and `after` have bins.

    `*_count` faces were measured, `*_mean` is their mean (None where there are none).
    """

    measure: Measure
    edges: tuple[float, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    before_count: int
    after_count: int
    before_mean: float | None
    after_mean: float | None


@dataclass(frozen=True)
class StageTotal:
    """One stage in this run: faces (or images) it worked on, those it was spared, tries again, seconds.

    `device_seconds` is time on the device summed over workers, `seconds` is time on the wall; None: not measured.
    """

    stage: str
    faces: int
    skipped: int
    retried: int
    device_seconds: float | None
    seconds: float | None

    @property
    def rate(self) -> float | None:
        """Faces (or images) per second on the wall; None where there is nothing to divide."""
        return self.faces / self.seconds if self.seconds and self.faces else None


@dataclass(frozen=True)
class Step:
    """What a stage did to a face (or, with face -1, to the image)."""

    stage: str
    state: str
    reason_code: str
    reason: str
    milliseconds: float | None
    attempt: int
    decision: Mapping[str, Any]


@dataclass(frozen=True)
class FaceRecord:
    """One face: its outcome, its scores (metric name → value), and its steps in recipe order.

    `landmarks` are five points (x, y) in pixels of the upright original, empty where detection did not keep them.
    """

    face: int
    outcome: FileOutcome
    metrics: Mapping[str, float]
    steps: tuple[Step, ...]
    landmarks: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class FileRecord:
    """One file of the archive and what became of it.

    `before`, `after` are means over its faces of the report's first measure, `identity` is the lowest of its faces,
    `seconds` its device time; None means not measured. `chosen` says why it is in the gallery (empty: it is not).
    `details` is None where the report has no room for the steps (`mpsr explain` has them).
    """

    path: str
    image_id: str
    outcome: FileOutcome
    reason_code: str
    reason: str = ""
    bytes: int | None = None
    format: str | None = None
    width: int | None = None
    height: int | None = None
    faces: int | None = None
    before: float | None = None
    after: float | None = None
    identity: float | None = None
    seconds: float | None = None
    chosen: str = ""
    details: tuple[FaceRecord, ...] | None = None

    @property
    def gain(self) -> float | None:
        """After minus before, in the measure's own direction."""
        return None if self.before is None or self.after is None else self.after - self.before


@dataclass(frozen=True)
class ReportData:
    """All that a report shows. `outcomes` and `faces` have every outcome as a key; `outcomes` sums to `found`.

    `files` holds the troubles first, then the gallery, then others in the order of the inventory while there is
    room; `gone` counts files that an earlier run knew and that are no longer in the archive. `rankings` holds positions
    in `files`: `slowest`, `lost_most` (by the measure), `least_alike` (by identity). `measure` is the one that
    `before` and `after` of a file speak of.
    """

    facts: RunFacts
    found: int
    outcomes: Mapping[str, int]
    reasons: Mapping[str, int]
    faces: Mapping[str, int]
    gone: int
    measure: Measure | None
    distributions: tuple[Distribution, ...]
    stages: tuple[StageTotal, ...]
    files: tuple[FileRecord, ...]
    rankings: Mapping[str, tuple[int, ...]]

    @property
    def balanced(self) -> bool:
        """Whether every file that was found has exactly one outcome."""
        return sum(self.outcomes.values()) == self.found
