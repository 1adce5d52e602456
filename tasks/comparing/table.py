"""The benchmark's numbers: every recipe on every degradation by every metric, beside the input as it was.

It knows evaluations and their comparison; it knows nothing of files or pages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow.compute as pc

from tasks.comparing.comparison import Difference, compare
from tasks.comparing.pairing import ComparisonError
from tasks.measuring import Evaluation

FIRST = ("psnr", "ssim", "lpips", "identity_truth", "identity_truth_onnx", "quality")
"""Metrics in the order of the page; others follow. The first two need nothing but the truth."""


@dataclass(frozen=True)
class Row:
    """One cell of the grid: a recipe's mean on one degradation by one metric, and its gain over the input.

    low, high: the gain's 95 % interval. verdict: of `tasks.comparison`. missing: faces without a value.
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
    verdict: str
    missing: int


def rows(inputs: Evaluation, restored: Mapping[str, Evaluation], cells: Sequence[str]) -> list[Row]:
    """Every cell of the grid. inputs: the degraded faces themselves, measured; restored: by recipe."""
    return [
        _row(recipe, cell, found)
        for recipe, evaluation in restored.items()
        for cell in cells
        for found in _differences(_cell(inputs, cell), _cell(evaluation, cell))
    ]


def metrics_in(table: Sequence[Row]) -> list[str]:
    """The metrics of the table, in the order of the page."""
    there = list(dict.fromkeys(row.metric for row in table))
    return [*(name for name in FIRST if name in there), *(name for name in there if name not in FIRST)]


def of_metric(table: Sequence[Row], metric: str) -> dict[tuple[str, str], Row]:
    """(cell, recipe) → row."""
    return {(row.cell, row.recipe): row for row in table if row.metric == metric}


def _differences(before: Evaluation, after: Evaluation) -> Iterator[Difference]:
    try:
        yield from compare(before, after).differences
    except ComparisonError:
        return  # no face of this cell came through; the table has a gap, and the evaluation says why


def _cell(evaluation: Evaluation, cell: str) -> Evaluation:
    faces = evaluation.faces
    return Evaluation(evaluation.facts, faces.filter(pc.starts_with(faces["key"], f"{cell}/")))


def _row(recipe: str, cell: str, found: Difference) -> Row:
    return Row(
        recipe=recipe,
        cell=cell,
        metric=found.metric,
        title=found.title,
        better=found.better,
        faces=found.pairs,
        input=found.mean_a,
        restored=found.mean_b,
        gain=found.gain,
        low=found.low,
        high=found.high,
        verdict=found.verdict,
        missing=found.missing_b,
    )
