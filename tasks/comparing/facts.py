"""What a comparison, a benchmark and the nightly gate's decision say: records, and the documents that are written down.

It knows names and numbers; it computes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from infra.facts import Facts, Record
from tasks.archive import Degradation
from tasks.comparing.pairing import Names

Verdict = Literal["better", "worse", "not told apart"]
Letter = Literal["a", "b"]
Interval = tuple[float, float, float | None, float | None]
"""Older and new mean score, and the ends of the mean difference's interval (None with fewer than two pictures)."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One metric over the pairs in which both sides have it.

    gain: mean of the pairs' differences in the metric's own direction, positive where B is better; low and high: its
    interval (None with fewer pictures than could tell). A win is a pair in which B is better. missing_a, missing_b:
    paired faces for which only that side has no value.
    """

    metric: str
    title: str
    better: str
    pairs: int
    pictures: int
    mean_a: float
    mean_b: float
    gain: float
    low: float | None
    high: float | None
    wins: int
    losses: int
    ties: int
    verdict: Verdict
    missing_a: int
    missing_b: int


@dataclass(frozen=True, slots=True)
class IdentityChange:
    """How many faces are the same person by one metric and threshold (None: each subset's own), and who changed.

    lost: the same person in A and another in B; regained: the reverse. Both are names (key, face), worst first.
    """

    metric: str
    threshold: float | None
    pairs: int
    failed_a: int
    failed_b: int
    lost: int
    regained: int
    lost_faces: Names
    regained_faces: Names


@dataclass(frozen=True, slots=True)
class Regression:
    """A face that became worse. fall: the metric's loss in standard deviations of that metric over all pairs.

    input_path: None where the evaluation names no input.
    """

    key: str
    face: int
    path_a: str
    path_b: str
    input_path: str | None
    metric: str
    a: float
    b: float
    fall: float


class Compared(Facts):
    """What comparing two evaluations found.

    only_a, only_b, other_input: faces that are not compared. problems_a, problems_b: pictures and faces of a side with
    a problem, by reason code. sets: numbers that a set has as a whole, (A, B), without an interval.
    """

    confidence: float
    resamples: int
    seed: int
    pairs: int
    pictures: int
    only_a: int
    only_b: int
    other_input: int
    only_a_faces: Names
    only_b_faces: Names
    other_input_faces: Names
    problems_a: Mapping[str, int]
    problems_b: Mapping[str, int]
    not_compared: Mapping[str, str]
    sets: Mapping[str, tuple[float | None, float | None]]
    differences: tuple[Difference, ...]
    identity: tuple[IdentityChange, ...]
    worst: tuple[Regression, ...]

    def difference(self, metric: str) -> Difference:
        """The row of one metric. Raises KeyError where it was not compared."""
        for each in self.differences:
            if each.metric == metric:
                return each
        raise KeyError(metric)


class Effort(Record):
    """What a workspace's restored pictures took.

    stages: seconds inside each, added over workers, of the results that were kept; seconds: their sum. wall_seconds:
    of the runs, by the clock; None where one did not finish. cost: `seconds` at the price; None without a price.
    """

    recipe: str
    device: str
    pictures: int
    faces: int
    stages: Mapping[str, float]
    seconds: float
    wall_seconds: float | None
    price_per_gpu_hour: float | None
    cost: float | None


class SideFacts(Record):
    """One side of a comparison. kind: as in flows.jobs. what: in words. restored: address of its pictures.

    effort: None for what is only a folder.
    """

    kind: str
    name: str
    what: str
    restored: str
    effort: Effort | None


class ComparisonFacts(Compared):
    """comparison.json. worst_pictures: a path per regression, empty where a picture is no longer there."""

    sides: Mapping[Letter, SideFacts]
    worst_pictures: tuple[str, ...]
    output: str


@dataclass(frozen=True, slots=True)
class GridRow:
    """One place of the benchmark's grid: a recipe's mean on one degradation by one metric, and its gain over the input.

    low, high: the gain's 95 % interval. missing: faces without a value.
    """

    recipe: str
    cell: str
    metric: str
    title: str
    better: str
    faces: int
    input: float
    restored: float
    gain: float
    low: float | None
    high: float | None
    verdict: Verdict
    missing: int


class BenchmarkFacts(Facts):
    """benchmark.json. refused: path → why it was not taken as a face. problems: recipe → reason code → faces.

    limits: what the numbers do not say, in words.
    """

    faces: int
    source: str
    refused: Mapping[str, str]
    recipes: tuple[str, ...]
    degradations: Mapping[str, Degradation]
    effort: Mapping[str, Effort | None]
    missing: Mapping[str, str]
    problems: Mapping[str, Mapping[str, int]]
    limits: str
    output: str
    rows: tuple[GridRow, ...]


@dataclass(frozen=True, slots=True)
class Check:
    """One bound of a nightly run: whether it was kept, and in which numbers."""

    name: str
    passed: bool
    said: str


class DecisionFacts(Record):
    """What the nightly gate decided for a run as a whole. pictures_failing: that keep their older result alone."""

    promote: bool = False
    checks: tuple[Check, ...] = ()
    faces: int = 0
    score: Interval | None = None
    terms: tuple[str, ...] = ()
    pictures_failing: int = 0
    differences: tuple[Difference, ...] = ()
    worst: tuple[Regression, ...] = ()
    not_compared: Mapping[str, str] = Field(default_factory=dict)

    @property
    def refused_because(self) -> tuple[str, ...]:
        """The sentences of the bounds that were not kept."""
        return tuple(check.said for check in self.checks if not check.passed)


PromotionState = Literal["planned", "applied", "abandoned", "rolling_back", "rolled_back"]


class PromotionTold(Record):
    """A promotion in a few words. counts: action → pictures. moved_on: see `flows.gate`. created, changed: ISO 8601."""

    id: str
    state: PromotionState
    created: str
    changed: str
    recipe: str
    counts: Mapping[str, int]
    moved_on: int
    promoted: bool
    refused_because: tuple[str, ...]
