"""Brings the faces of two evaluations together: who is in both, in one only, and which metrics both have alike.

It knows the tables of `tasks.measuring`; what the pairs say is the business of `comparison`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.problems import ForPeople
from tasks.comparing.intervals import Floats

if TYPE_CHECKING:
    from tasks.measuring import Evaluation, MetricFacts

Names = tuple[tuple[str, int], ...]
"""Faces as (key, number)."""
NAMED = 100
"""Faces that are listed by name before only the number is told; the table has them all."""


class ComparisonError(ForPeople):
    """Two evaluations cannot be compared; the message says what was expected, what came and what to do."""

    exit_code = 2


class Pairs:
    """The paired faces as arrays: a, b and gain (N, M), gain in each metric's own direction."""

    def __init__(self, both: pa.Table, metrics: Mapping[str, MetricFacts]) -> None:
        self.table, self.metrics = both, metrics
        self.names = list(metrics)
        self.a, self.b = (self._values(side) for side in "ab")
        signs = np.array([1.0 if metric.better == "higher" else -1.0 for metric in metrics.values()])
        self.gain = (self.b - self.a) * signs
        self.gain[np.isclose(self.a, self.b, rtol=1e-5, atol=1e-7)] = 0.0  # noise of the machine's numbers
        # Copies of one picture under several names are one picture: they say nothing that it does not.
        one = pc.coalesce(both["input_sha256"], both["key"])
        codes = one.combine_chunks().dictionary_encode()
        self.picture = codes.indices.to_numpy()
        self.pictures = len(codes.dictionary)

    def _values(self, side: str) -> Floats:
        columns = [floats(self.table[f"{name}_{side}"]) for name in self.names]
        return np.column_stack(columns) if columns else np.empty((len(self.table), 0))

    def names_of(self, rows: Sequence[int]) -> Names:
        """(key, face) of the rows, of the first NAMED at most."""
        return named(self.table.take(pa.array(rows, pa.int64())))


def insist_on_the_same_faces(a: Evaluation, b: Evaluation) -> None:
    """Raises ComparisonError where faces have numbers by different detectors: number 1 would be two people."""
    if a.facts.detector != b.facts.detector:
        ours, theirs = (
            side.facts.detector["detector"] if side.facts.detector else "no detector (aligned pictures)"
            for side in (a, b)
        )
        raise ComparisonError(
            f"expected faces looked for in the same way; A was measured with {ours}, B with {theirs}, or with other "
            "settings of it: evaluate both alike, or compare the folders"
        )


def metrics_of(a: Evaluation, b: Evaluation) -> tuple[dict[str, MetricFacts], dict[str, str]]:
    """Metrics that both sides measured alike, and a sentence for each of the others."""
    ours, theirs = a.facts.metrics, b.facts.metrics
    same: dict[str, MetricFacts] = {}
    reasons: dict[str, str] = {}
    for name in {**ours, **theirs, **a.facts.missing, **b.facts.missing}:
        lacking = [side for side, facts in (("A", ours), ("B", theirs)) if name not in facts]
        if lacking:
            why = (a if "A" in lacking else b).facts.missing.get(name, "it was not measured there")
            reasons[name] = f"not in {' and '.join(lacking)}: {why}"
        elif ours[name].digest != theirs[name].digest:
            reasons[name] = "A and B were measured with different versions or weights of it; evaluate both again"
        elif all(name in side.faces.column_names for side in (a, b)):  # one number of a whole set has no column
            same[name] = ours[name]
    return same, reasons


def paired(a: pa.Table, b: pa.Table, metrics: list[str]) -> pa.Table:
    """A row per face of either side, ordered by key and face.

    side: "both"; "a" or "b" (the face is in one set only); "other_input" (in both, but restored from different inputs
    or held against different truths, and so not to be compared). Then key, face, subset, input_path, input_sha256,
    path_a, path_b, and <metric>_a, <metric>_b.
    Raises ComparisonError where a face stands twice in a set.
    """
    left, right = _side(a, "a", metrics), _side(b, "b", metrics)
    joined = left.join(right, keys=["key", "face"], join_type="full outer").sort_by(
        [("key", "ascending"), ("face", "ascending")]
    )
    lone = pc.if_else(pc.is_null(joined["path_a"]), "b", "a")
    is_pair = pc.and_(pc.is_valid(joined["path_a"]), pc.is_valid(joined["path_b"]))
    alike = pc.and_(_equal(joined, "input_sha256", False), _equal(joined, "truth_sha256", True))
    side = pc.if_else(is_pair, pc.if_else(alike, "both", "other_input"), lone)
    either = {
        name: pc.coalesce(joined[f"{name}_b"], joined[f"{name}_a"]) for name in ("subset", "input_path", "input_sha256")
    }
    columns = {"side": side, **{name: joined[name] for name in ("key", "face")}, **either}
    columns |= {name: joined[name] for name in ("path_a", "path_b")}
    columns |= {f"{name}_{s}": joined[f"{name}_{s}"] for name in metrics for s in "ab"}
    return pa.table(columns)


def _equal(joined: pa.Table, name: str, unknown: bool) -> pa.ChunkedArray:
    """Whether both sides have the same; `unknown` where a side has none."""
    return pc.fill_null(pc.equal(joined[f"{name}_a"], joined[f"{name}_b"]), unknown)


def _side(faces: pa.Table, side: str, metrics: list[str]) -> pa.Table:
    faces = faces.filter(pc.greater_equal(faces["face"], 0))  # -1 is a picture that could not be measured
    groups = faces.group_by(["key", "face"]).aggregate([([], "count_all")])
    doubled = groups.filter(pc.greater(groups["count_all"], 1))
    if len(doubled):
        (key, face), *_ = named(doubled)
        raise ComparisonError(
            f"face {face} of {key!r} stands more than once in set {side.upper()}; "
            "expected each face once, so evaluate the set anew into an empty folder"
        )
    kept = faces.select(["key", "face", "path", "subset", "input_path", "input_sha256", "truth_sha256", *metrics])
    return kept.rename_columns([n if n in ("key", "face") else f"{n}_{side}" for n in kept.column_names])


def nothing_in_common(a: Evaluation, b: Evaluation, table: pa.Table) -> str:
    """Why no pair was found, for people."""
    restored_from = (
        "both hold them, but restored from different inputs"
        if pc.any(pc.equal(table["side"], "other_input")).as_py()
        else "their file names do not match"
    )
    sizes = f"{len(a.faces)} faces of {a.facts.restored} and {len(b.faces)} of {b.facts.restored}"
    return f"expected two sets restored from the same pictures; of {sizes} none is in both: {restored_from}"


def named(rows: pa.Table) -> Names:
    """(key, face) of the rows, of the first NAMED at most."""
    first = rows.slice(0, NAMED)
    return tuple(zip(first["key"].to_pylist(), first["face"].to_pylist(), strict=True))


def floats(column: pa.ChunkedArray) -> Floats:
    """Numbers with NaN for null."""
    return np.array(pc.fill_null(column.cast(pa.float64()), float("nan")).to_numpy(), np.float64)
