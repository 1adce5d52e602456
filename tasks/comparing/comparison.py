"""Two evaluations of the same faces, pair by pair: what is better, what is worse, and what cannot be told apart.

A is what there was (or the originals), B what is held against it; a positive gain always means that B is better. It
knows the tables of `tasks.measuring` and statistics; it knows nothing of recipes, workspaces or pictures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ConfigDict, Field

from tasks.comparing.facts import Compared, Difference, IdentityChange, Regression
from tasks.comparing.intervals import Floats, intervals, pictures_needed
from tasks.comparing.pairing import (
    ComparisonError,
    Pairs,
    insist_on_the_same_faces,
    metrics_of,
    named,
    nothing_in_common,
    paired,
)
from tasks.measuring import meaning_of, score_terms

if TYPE_CHECKING:
    from tasks.measuring import Evaluation

THRESHOLDS = (0.3, 0.5, 0.6)
"""Cosines of the challenge below which a face counts as another person."""


class Comparison(Compared):
    """What `compare` found, and the faces that it is about; the table is that of `pairing.paired`."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    table: pa.Table = Field(exclude=True, repr=False)


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

    confidence: of the intervals, 0 to 1; they come from `resamples` draws of whole pictures (`intervals`), and
    there are none with fewer than `pictures_needed(confidence)` pictures. A verdict needs one that leaves out zero.
    worst: how many regressions are listed. Deterministic. Raises ComparisonError where a face stands twice in a set,
    no face is in both, or faces were not looked for in the same way.
    """
    insist_on_the_same_faces(a, b)
    metrics, not_compared = metrics_of(a, b)
    table = paired(a.faces, b.faces, list(metrics))
    both, only_a, only_b, other_input = (
        table.filter(pc.equal(table["side"], side)) for side in ("both", "a", "b", "other_input")
    )
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
        only_a=len(only_a),
        only_b=len(only_b),
        other_input=len(other_input),
        only_a_faces=named(only_a),
        only_b_faces=named(only_b),
        other_input_faces=named(other_input),
        problems_a=problems_of(a.faces),
        problems_b=problems_of(b.faces),
        differences=differences,
        not_compared=dict(sorted((not_compared | empty).items())),
        sets={name: each for name, each in _whole_sets(a, b).items() if name not in not_compared},
        identity=tuple(_identity(pairs, thresholds, _own_thresholds(a, b, both))),
        worst=_worst(pairs, worst),
        table=table,
    )


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
        title=pairs.metrics[name].title or name,
        better=pairs.metrics[name].better,
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
        verdict="better" if told and low > 0 else "worse" if told and high < 0 else "not told apart",
        missing_a=int((has_b & ~has_a).sum()),
        missing_b=int((has_a & ~has_b).sum()),
    )


def _own_thresholds(a: Evaluation, b: Evaluation, both: pa.Table) -> Floats:
    """(N,) the threshold that the data set gives each face's subset; NaN where it gives none."""
    subsets = {**a.facts.subsets, **b.facts.subsets}
    own = {name: subset.threshold for name, subset in subsets.items() if subset.threshold is not None}
    codes = both["subset"].combine_chunks().dictionary_encode()
    values = np.array([own.get(name, np.nan) for name in codes.dictionary.to_pylist()] or [np.nan])
    return np.asarray(values[codes.indices.fill_null(0).to_numpy()], np.float64)


def _identity(pairs: Pairs, thresholds: Sequence[float], own: Floats) -> list[IdentityChange]:
    found = []
    for m, name in enumerate(pairs.names):
        if meaning_of(name).recognises:
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
    ranked = [m for m, name in enumerate(pairs.names) if meaning_of(name).ranked]
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
    ours, theirs = (side.facts.metrics.get("fid") for side in (a, b))
    if ours and theirs and ours != theirs:
        found["fid"] = "A and B were measured with different weights or references; evaluate both again"
    unlike = [name for name in score_terms() if name in {**not_compared, **found}]
    if unlike and any(side.facts.overall.score is not None for side in (a, b)):
        found["score"] = f"its terms were not measured alike: {', '.join(unlike)}"
    return found


def _whole_sets(a: Evaluation, b: Evaluation) -> dict[str, tuple[float | None, float | None]]:
    """The numbers that a set has as a whole, (A, B)."""
    ours, theirs = a.facts.overall, b.facts.overall
    return {"fid": (ours.fid, theirs.fid), "score": (ours.score, theirs.score)}
