"""The nightly gate: whether new results may replace older ones, for the run as a whole and face by face.

Pure decisions over two evaluations of the same pictures, the older results and the new ones. It knows neither
workspace nor ledger; what a decision does to files is the business of `flows.gate`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.ledger import DELIVERED_STATES, Event
from infra.settings import Promotion
from tasks.comparing.comparison import Comparison, compare
from tasks.comparing.facts import Check, DecisionFacts, Interval
from tasks.comparing.intervals import Floats, intervals, pictures_needed
from tasks.comparing.pairing import ComparisonError, floats
from tasks.measuring import Evaluation, identities, worths

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Flags = NDArray[np.bool_]

Action = Literal["promote", "keep", "take", "original"]
"""promote: the new result replaces the older one. keep: the older one stays. take: there is no older one, so the new
one goes in. original: there is no older one and the new one is below the floors, so the original goes in."""

RESAMPLES, SEED = 10_000, 0
NOISE = 1e-6
"""Differences that arithmetic alone may make; no bound is broken by one."""


@dataclass(frozen=True)
class Decision:
    """What may be promoted. `failing` maps paths of pictures to the sentence that keeps their older result."""

    promote: bool
    checks: tuple[Check, ...]
    failing: Mapping[str, str] = field(default_factory=dict)
    compared: frozenset[str] = frozenset()
    faces: int = 0
    score: Interval | None = None
    terms: tuple[str, ...] = ()
    comparison: Comparison | None = None

    def kept_because(self, paths: Collection[str]) -> str | None:
        """Why the older result of a picture stays (all its paths hold the same); None where the new one replaces it."""
        if not self.promote:
            return "the run: " + "; ".join(check.said for check in self.checks if not check.passed)
        for path in paths:
            if path in self.failing:
                return self.failing[path]
        return None if any(path in self.compared for path in paths) else "it could not be measured"

    def facts(self) -> DecisionFacts:
        """The numbers, to be written down."""
        found = self.comparison
        return DecisionFacts(
            promote=self.promote,
            checks=self.checks,
            faces=self.faces,
            score=self.score,
            terms=self.terms,
            pictures_failing=len(self.failing),
            differences=found.differences if found else (),
            worst=found.worst if found else (),
            not_compared=found.not_compared if found else {},
        )


NOTHING_TO_JUDGE = Decision(True, (Check("results", True, "no result differs from the older one"),))


def decide(before: Evaluation, after: Evaluation, bounds: Promotion) -> Decision:
    """Compares the older results with the new ones of the same pictures and holds them against the bounds.

    Both evaluations hold only pictures of which there are two different results. A face that was measured on one side
    only, or not at all, keeps its picture's older result.
    """
    limits = (bounds.identity_floor,)
    try:
        found = compare(before, after, confidence=bounds.confidence, resamples=RESAMPLES, seed=SEED, thresholds=limits)
    except ComparisonError as error:
        problems = _problems(before, after)
        said = f"no picture can be compared: {Counter(problems.values()).most_common(1)[0][0] if problems else error}"
        return Decision(False, (Check("comparison", False, said),), problems)
    faces = _Faces(found.table.filter(pc.equal(found.table["side"], "both")))
    score = faces.interval(bounds.confidence)
    checks = (_score_check(score, faces.pictures, found, bounds), _identity_check(faces, bounds, found.not_compared))
    return Decision(
        promote=all(check.passed for check in checks),
        checks=checks,
        failing=_problems(before, after) | _on_one_side(found.table) | faces.failing(bounds),
        compared=frozenset(faces.paths),
        faces=len(faces.paths),
        score=score,
        terms=faces.terms,
        comparison=found,
    )


def below_floors(after: Evaluation, bounds: Promotion) -> dict[str, str]:
    """path → why, of pictures with a measured face below the floors; for pictures without an older result."""
    named = {name: floats(after.faces[name]) for name in after.metrics}
    score = _score([worth(named[name]) for name, worth in worths().items() if name in named], len(after.faces))
    identity = next((named[name] for name in identities() if name in named), np.full(len(after.faces), np.nan))
    paths, numbers = after.faces["path"].to_pylist(), after.faces["face"].to_pylist()
    poor, other = score < bounds.score_floor - NOISE, identity < bounds.identity_floor - NOISE
    said = {}
    for n in np.flatnonzero(poor | other):
        name, value, floor = (
            ("similarity", identity[n], bounds.identity_floor) if other[n] else ("score", score[n], bounds.score_floor)
        )
        said[paths[n]] = f"face {numbers[n]}: {name} {value:.3f}, below the floor of {floor:g}"
    return said


def only(evaluation: Evaluation, paths: pa.Array) -> Evaluation:
    """The evaluation of these pictures alone."""
    return Evaluation(evaluation.facts, evaluation.faces.filter(pc.is_in(evaluation.faces["path"], value_set=paths)))


@dataclass(frozen=True)
class Case:
    """A picture that waits for a decision. old: its verdict in the ledger; None: it has none. new: the candidate's."""

    image_id: str
    bucket: int
    paths: tuple[str, ...]
    why: str
    old: Event | None
    new: Event

    @property
    def older_result(self) -> Event | None:
        """The verdict on a result that stands; None where nothing stands."""
        return self.old if self.old and self.old.state in DELIVERED_STATES else None

    @property
    def differs(self) -> bool:
        """Whether there are two results that are not the same file."""
        older = self.older_result
        return older is not None and self._has_new_result and older.output_sha256 != self.new.output_sha256

    def settled(self, decision: Decision, below: Mapping[str, str]) -> tuple[Action, str]:
        """What becomes of the picture, and why."""
        if self.older_result is None:
            low = next((below[path] for path in self.paths if path in below), None) if self._has_new_result else None
            return ("take", "there was no older result") if low is None else ("original", low)
        if not self._has_new_result:
            return "keep", f"the new recipe gave no result: {self.new.reason or self.new.reason_code or 'no verdict'}"
        if not self.differs:
            return "promote", "the results are the same"
        why = decision.kept_because(self.paths)
        return ("promote", "within the bounds") if why is None else ("keep", why)

    @property
    def _has_new_result(self) -> bool:
        return self.new.state in DELIVERED_STATES


class _Faces:
    """The faces that were measured on both sides, as arrays; a is the older result, b the new one."""

    def __init__(self, both: pa.Table) -> None:
        self.paths: list[str] = both["path_b"].to_pylist()
        self._numbers = both["face"].to_pylist()
        self._pictures = both["key"].combine_chunks().dictionary_encode().indices.to_numpy()
        self.terms = tuple(name for name in worths() if f"{name}_b" in both.column_names)
        measured = [[floats(both[f"{name}_{side}"]) for name in self.terms] for side in "ab"]
        shared = [np.isfinite(a) & np.isfinite(b) for a, b in zip(*measured, strict=True)]
        self.a, self.b = (_score(self._scaled(side, shared), len(both)) for side in measured)
        self.identity = next((name for name in identities() if f"{name}_b" in both.column_names), None)
        self.same_a, self.same_b = (
            floats(both[f"{self.identity}_{side}"]) if self.identity else np.full(len(both), np.nan) for side in "ab"
        )

    @property
    def pictures(self) -> int:
        """Pictures with a face that has a score on both sides."""
        return len(np.unique(self._pictures[np.isfinite(self.b - self.a)]))

    def interval(self, confidence: float) -> Interval | None:
        """Mean scores and the interval of the mean difference; None where nothing has a score."""
        gain = self.b - self.a
        has = np.isfinite(gain)
        if not has.any():
            return None
        low, high = intervals(gain[:, None], self._pictures, confidence=confidence, resamples=RESAMPLES, seed=SEED)
        before, after = float(self.a[has].mean()), float(self.b[has].mean())
        return before, after, *((None, None) if np.isnan(low[0]) else (float(low[0]), float(high[0])))

    def failures(self, floor: float) -> tuple[int, int]:
        """How many faces are another person, before and after, of those that were judged on both sides."""
        judged = np.isfinite(self.same_a) & np.isfinite(self.same_b)
        return int((judged & (self.same_a < floor)).sum()), int((judged & (self.same_b < floor)).sum())

    def failing(self, bounds: Promotion) -> dict[str, str]:
        """path → why, of every picture with a face out of bounds; the first such face speaks."""
        rules = self._rules("score", self.a, self.b, bounds.score_floor, bounds.score_drop) if self.terms else []
        if self.identity:
            rules += self._rules("similarity", self.same_a, self.same_b, bounds.identity_floor, bounds.identity_drop)
        said: dict[str, str] = {}
        for broken, tell in rules:
            for n in np.flatnonzero(broken):
                said.setdefault(self.paths[n], f"face {self._numbers[n]}: {tell(int(n))}")
        return said

    def _scaled(self, values: list[Floats], shared: list[Flags]) -> list[Floats]:
        """The terms of the score; NaN where only one side has them."""
        with np.errstate(invalid="ignore"):
            scaled = [worths()[name](each) for name, each in zip(self.terms, values, strict=True)]
        return [np.where(ok, each, np.nan) for ok, each in zip(shared, scaled, strict=True)]

    def _rules(
        self, name: str, a: Floats, b: Floats, floor: float, drop: float
    ) -> list[tuple[Flags, Callable[[int], str]]]:
        """A face's floor is the setting's, or what it had before where that was lower."""
        with np.errstate(invalid="ignore"):
            below, fallen = b < np.minimum(floor, a) - NOISE, b < a - drop - NOISE
        return [
            (~np.isfinite(b - a), lambda n: f"its {name} could not be measured"),
            (below, lambda n: f"{name} {a[n]:.3f} → {b[n]:.3f}, below its floor of {min(floor, a[n]):.3g}"),
            (fallen, lambda n: f"{name} {a[n]:.3f} → {b[n]:.3f}, a fall of more than {drop:g}"),
        ]


def _score_check(score: Interval | None, pictures: int, found: Comparison, bounds: Promotion) -> Check:
    if score is None:
        lacking = "; ".join(f"{name}: {said}" for name, said in found.not_compared.items())
        return Check("score", False, f"no measure of quality can be taken here ({lacking or 'none was asked for'})")
    before, after, low, high = score
    needed = pictures_needed(bounds.confidence)
    if pictures < needed or low is None or high is None:
        said = f"{pictures} pictures were compared, and fewer than {needed} say nothing with confidence"
        return Check("pictures", False, said)
    said = (
        f"score {before:.4f} → {after:.4f}, {bounds.confidence:.0%} interval of the difference "
        f"{low:+.4f} … {high:+.4f}; it may fall by {bounds.margin:g}"
    )
    return Check("score", low >= -bounds.margin - NOISE, said)


def _identity_check(faces: _Faces, bounds: Promotion, lacking: Mapping[str, str]) -> Check:
    if faces.identity is None:
        why = next((lacking[name] for name in identities() if name in lacking), "it was not asked for")
        said = f"identity could not be judged ({why})"
        told = "; the setting promotion.without_identity allows that" if bounds.without_identity else ""
        return Check("identity", bounds.without_identity, said + told)
    before, after = faces.failures(bounds.identity_floor)
    allowed = f"{bounds.identity_losses} more are allowed"
    said = f"faces less alike than {bounds.identity_floor:g}: {before} → {after}; {allowed}"
    return Check("identity", after <= before + bounds.identity_losses, said)


def _problems(*evaluations: Evaluation) -> dict[str, str]:
    """path → why, of pictures and faces that could not be measured on some side."""
    said: dict[str, str] = {}
    for evaluation in evaluations:
        rows = evaluation.faces.filter(pc.not_equal(evaluation.faces["problem"], ""))
        for row in rows.select(["path", "problem", "problem_text"]).to_pylist():
            said.setdefault(row["path"], f"it could not be measured: {row['problem_text'] or row['problem']}")
    return said


def _on_one_side(table: pa.Table) -> dict[str, str]:
    rows = table.filter(pc.not_equal(table["side"], "both")).select(["path_a", "path_b", "face"]).to_pylist()
    return {row["path_b"] or row["path_a"]: f"face {row['face']} has no counterpart to compare with" for row in rows}


def _score(terms: list[Floats], faces: int) -> Floats:
    """Mean of the terms that each face has; NaN where it has none."""
    if not terms:
        return np.full(faces, np.nan)
    table = np.column_stack(terms)
    counts = np.isfinite(table).sum(axis=1)
    sums = np.nansum(table, axis=1)
    return np.asarray(np.where(counts > 0, sums / np.maximum(counts, 1), np.nan), np.float64)
