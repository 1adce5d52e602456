"""Two evaluations of the same faces, pair by pair: what is better, what is worse, and what cannot be told apart.

A is what there was (or the originals), B what is held against it; a positive gain always means that B is better. It
knows the tables of `tasks.evaluation_files` and statistics; it knows nothing of recipes, workspaces or pictures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.comparing.intervals import Floats, intervals, pictures_needed
from tasks.comparing.pairing import (
    NAMED,
    ComparisonError,
    Names,
    Pairs,
    insist_on_the_same_faces,
    metrics_of,
    named,
    nothing_in_common,
    paired,
)
from tasks.measuring import TERMS

if TYPE_CHECKING:
    from tasks.measuring import Evaluation

Verdict = Literal["better", "worse", "not told apart"]

THRESHOLDS = (0.3, 0.5, 0.6)
"""Cosines of the challenge below which a face counts as another person."""
NOT_RANKED = frozenset({"sharpness"})
"""Metrics whose falls are no regressions by themselves: noise is sharp."""


@dataclass(frozen=True)
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


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Regression:
    """A face that became worse. fall: the metric's loss in standard deviations of that metric over all pairs."""

    key: str
    face: int
    path_a: str
    path_b: str
    input_path: str
    metric: str
    a: float
    b: float
    fall: float


@dataclass(frozen=True)
class Comparison:
    """What `compare` found. `table` is that of tasks.pairing.paired.

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
    differences: tuple[Difference, ...]
    not_compared: Mapping[str, str]
    sets: Mapping[str, tuple[float | None, float | None]]
    identity: tuple[IdentityChange, ...]
    worst: tuple[Regression, ...]
    table: pa.Table

    def difference(self, metric: str) -> Difference:
        """The row of one metric. Raises KeyError where it was not compared."""
        for each in self.differences:
            if each.metric == metric:
                return each
        raise KeyError(metric)

    def as_dict(self) -> dict[str, Any]:
        """Everything but the table, for JSON."""
        names = [
            name for name in self.__dataclass_fields__ if name not in ("table", "differences", "identity", "worst")
        ]
        told: dict[str, Any] = {"schema": 1} | {name: getattr(self, name) for name in names}
        return told | {
            name: [asdict(row) for row in getattr(self, name)] for name in ("differences", "identity", "worst")
        }


def compare(
    a: Evaluation,
    b: Evaluation,
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    thresholds: Sequence[float] = THRESHOLDS,
    worst: int = 24,
) -> Comparison:
    """Pairs the faces by key and number, and measures every metric that both sides have in the same way.

    confidence: of the intervals, 0 to 1; they come from `resamples` draws of whole pictures (tasks.bootstrap), and
    there are none with fewer than `pictures_needed(confidence)` pictures. A verdict needs one that leaves out zero.
    worst: how many regressions are listed. Deterministic. Raises ComparisonError where a face stands twice in a set,
    no face is in both, or faces were not looked for in the same way.
    """
    insist_on_the_same_faces(a, b)
    metrics, not_compared = metrics_of(a, b)
    table = paired(a.faces, b.faces, list(metrics))
    both = table.filter(pc.equal(table["side"], "both"))
    if not len(both):
        raise ComparisonError(nothing_in_common(a, b, table))
    pairs = Pairs(both, metrics)
    differences = _differences(pairs, confidence, resamples, seed)
    not_compared |= _unlike_sets(a, b, not_compared)
    empty = dict.fromkeys(set(metrics) - {d.metric for d in differences}, "no face has it in both sets")
    return Comparison(
        confidence=confidence,
        resamples=resamples,
        seed=seed,
        pairs=len(both),
        pictures=pairs.pictures,
        **_apart(table),
        problems_a=problems_of(a.faces),
        problems_b=problems_of(b.faces),
        differences=differences,
        not_compared=dict(sorted((not_compared | empty).items())),
        sets={name: (_overall(a, name), _overall(b, name)) for name in ("fid", "score") if name not in not_compared},
        identity=tuple(_identity(pairs, thresholds, _own_thresholds(a, b, both))),
        worst=_worst(pairs, worst),
        table=table,
    )


def _apart(table: pa.Table) -> dict[str, Any]:
    """Faces that are not compared: how many, and the first by name."""
    found: dict[str, Any] = {}
    for side, name in (("a", "only_a"), ("b", "only_b"), ("other_input", "other_input")):
        rows = table.filter(pc.equal(table["side"], side))
        found |= {name: len(rows), f"{name}_faces": named(rows.slice(0, NAMED))}
    return found


def _differences(pairs: Pairs, confidence: float, resamples: int, seed: int) -> tuple[Difference, ...]:
    if not pairs.names:
        return ()
    low, high = intervals(pairs.gain, pairs.picture, confidence=confidence, resamples=resamples, seed=seed)
    enough = pictures_needed(confidence)
    measured = np.isfinite(pairs.gain).any(axis=0)
    return tuple(_difference(pairs, int(m), float(low[m]), float(high[m]), enough) for m in np.flatnonzero(measured))


def _difference(pairs: Pairs, m: int, low: float, high: float, enough: int) -> Difference:
    name, gain = pairs.names[m], pairs.gain[:, m]
    has_a, has_b = np.isfinite(pairs.a[:, m]), np.isfinite(pairs.b[:, m])
    both = has_a & has_b
    pictures = len(np.unique(pairs.picture[both]))
    told = pictures >= enough
    return Difference(
        metric=name,
        title=pairs.metrics[name].get("title", name),
        better=pairs.metrics[name]["better"],
        pairs=int(both.sum()),
        pictures=pictures,
        mean_a=float(pairs.a[both, m].mean()),
        mean_b=float(pairs.b[both, m].mean()),
        gain=float(gain[both].mean()),
        low=low if told else None,
        high=high if told else None,
        wins=int((gain > 0).sum()),
        losses=int((gain < 0).sum()),
        ties=int((gain == 0).sum()),
        verdict=_verdict(low, high) if told else "not told apart",
        missing_a=int((has_b & ~has_a).sum()),
        missing_b=int((has_a & ~has_b).sum()),
    )


def _verdict(low: float, high: float) -> Verdict:
    return "better" if low > 0 else "worse" if high < 0 else "not told apart"


def _own_thresholds(a: Evaluation, b: Evaluation, both: pa.Table) -> Floats:
    """(N,) the threshold that the data set gives each face's subset; NaN where it gives none."""
    subsets = {**a.facts.get("subsets", {}), **b.facts.get("subsets", {})}
    own = {name: facts["threshold"] for name, facts in subsets.items() if facts.get("threshold") is not None}
    codes = both["subset"].combine_chunks().dictionary_encode()
    values = np.array([own.get(name, np.nan) for name in codes.dictionary.to_pylist()] or [np.nan])
    return np.asarray(values[codes.indices.fill_null(0).to_numpy()], np.float64)


def _identity(pairs: Pairs, thresholds: Sequence[float], own: Floats) -> list[IdentityChange]:
    found = []
    for m, name in enumerate(pairs.names):
        if name.startswith("identity"):
            found += [_change(pairs, m, name, value, np.full(len(own), value)) for value in thresholds]
            if np.isfinite(own).any():
                found.append(_change(pairs, m, name, None, own))
    return found


def _change(pairs: Pairs, m: int, name: str, threshold: float | None, limits: Floats) -> IdentityChange:
    a, b = pairs.a[:, m], pairs.b[:, m]
    judged = np.isfinite(a) & np.isfinite(b) & np.isfinite(limits)
    failed_a, failed_b = judged & (a < limits), judged & (b < limits)
    lost, regained = failed_b & ~failed_a, failed_a & ~failed_b
    return IdentityChange(
        metric=name,
        threshold=threshold,
        pairs=int(judged.sum()),
        failed_a=int(failed_a.sum()),
        failed_b=int(failed_b.sum()),
        lost=int(lost.sum()),
        regained=int(regained.sum()),
        lost_faces=pairs.names_of(_in_order(lost, b - a)),
        regained_faces=pairs.names_of(_in_order(regained, a - b)),
    )


def _in_order(chosen: np.ndarray[Any, Any], by: Floats) -> list[int]:
    rows = np.flatnonzero(chosen)
    ordered: list[int] = rows[np.argsort(by[rows], kind="stable")].tolist()
    return ordered


def _worst(pairs: Pairs, number: int) -> tuple[Regression, ...]:
    """The faces that fell furthest in any metric, each metric measured by its own spread."""
    ranked = [m for m, name in enumerate(pairs.names) if name not in NOT_RANKED]
    worst = np.zeros(len(pairs.table))
    blamed = np.full(len(pairs.table), -1)
    for m in ranked:
        spread = _spread(pairs.a[:, m], pairs.b[:, m])
        fall = np.nan_to_num(-pairs.gain[:, m] / spread) if spread > 0 else np.zeros(len(worst))
        blamed[fall > worst] = m
        worst = np.maximum(worst, fall)
    rows = _in_order(worst > 0, -worst)[:number]
    return tuple(_regression(pairs, row, int(blamed[row]), float(worst[row])) for row in rows)


def _spread(a: Floats, b: Floats) -> float:
    values = np.concatenate([a, b])
    values = values[np.isfinite(values)]
    return float(values.std()) if len(values) else 0.0


def _regression(pairs: Pairs, row: int, m: int, fall: float) -> Regression:
    told = pairs.table.slice(row, 1).to_pylist()[0]
    names = ("key", "face", "path_a", "path_b", "input_path")
    a, b = float(pairs.a[row, m]), float(pairs.b[row, m])
    return Regression(**{name: told[name] for name in names}, metric=pairs.names[m], a=a, b=b, fall=fall)


def problems_of(faces: pa.Table) -> dict[str, int]:
    """Pictures and faces that could not be measured, by reason code."""
    counts = Counter(faces["problem"].to_pylist())
    return {code: n for code, n in sorted(counts.items()) if code}


def _unlike_sets(a: Evaluation, b: Evaluation, not_compared: Mapping[str, str]) -> dict[str, str]:
    """Numbers of whole sets that would mislead side by side: FIDs to different references, Scores of unlike terms."""
    found: dict[str, str] = {}
    ours, theirs = (side.facts["metrics"].get("fid") for side in (a, b))
    if ours and theirs and ours != theirs:
        found["fid"] = "A and B were measured with different weights or references; evaluate both again"
    unlike = [name for name in TERMS if name in {**not_compared, **found}]
    if unlike and any(_overall(side, "score") is not None for side in (a, b)):
        found["score"] = f"its terms were not measured alike: {', '.join(unlike)}"
    return found


def _overall(evaluation: Evaluation, name: str) -> float | None:
    value: float | None = evaluation.facts.get("overall", {}).get(name)
    return value
