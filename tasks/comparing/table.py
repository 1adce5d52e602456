"""The benchmark's numbers: every recipe on every degradation by every metric, beside the input as it was.

It knows evaluations and their comparison; it knows nothing of files or pages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pyarrow.compute as pc

from tasks.comparing.comparison import compare
from tasks.comparing.facts import Difference, GridRow
from tasks.comparing.pairing import ComparisonError
from tasks.measuring import Evaluation, meaning_of


def rows(inputs: Evaluation, restored: Mapping[str, Evaluation], cells: Sequence[str]) -> list[GridRow]:
    """Every cell of the grid. inputs: the degraded faces themselves, measured; restored: by recipe."""
    return [
        GridRow(
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
        for recipe, evaluation in restored.items()
        for cell in cells
        for found in _differences(_cell(inputs, cell), _cell(evaluation, cell))
    ]


def metrics_in(table: Sequence[GridRow]) -> list[str]:
    """The metrics of the table, in the order of the page: those against the truth first."""
    there = dict.fromkeys(row.metric for row in table)
    return sorted(there, key=lambda name: (not meaning_of(name).needs_truth, not meaning_of(name).leads))


def of_metric(table: Sequence[GridRow], metric: str) -> dict[tuple[str, str], GridRow]:
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
