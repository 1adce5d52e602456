"""What a benchmark says, as a document for people: tables, curves and pictures, and what the numbers do not say.

It gets numbers and names and gives blocks of `tasks.document`; it reads and writes no file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.comparing import CELLS, NOT_RANKED, SEVERITY, Row, described, metrics_in, of_metric, pictures_needed
from tasks.measuring import ALIKE
from tasks.pages.documents.comparison import EFFORT_HEAD, effort_cells, signed
from tasks.pages.documents.curves import MOST, curves
from tasks.pages.documents.document import Block, Figure, Heading, Paragraph, Table
from tasks.pages.run.words import number

INPUT = "input"
ALONE = tuple(cell for cell in CELLS if cell not in SEVERITY)
IDENTITY_TO_INPUT = ("identity", "identity_onnx")
"""Measured against the input, which is of course like itself: a gain would mean nothing."""


def benchmark_blocks(table: Sequence[Row], facts: Mapping[str, Any], strips: Mapping[str, str]) -> list[Block]:
    """The whole document. facts: as benchmark.json. strips: cell → path of its pictures."""
    recipes = list(facts["recipes"])
    numbers = [block for metric in metrics_in(table) for block in _metric(table, metric, recipes)]
    return [*_opening(facts), *numbers, *_missing(facts), *_effort(facts), *_pictures(strips, recipes), *_grid(facts)]


def curve_path(metric: str) -> str:
    """Where a metric's curves lie beside the page."""
    return f"curves/{metric}.svg"


def metric_curves(table: Sequence[Row], metric: str) -> str:
    """A metric's curves: the input as it was, and every recipe, as many as can be told apart."""
    cells = of_metric(table, metric)
    rows = list(cells.values())
    series: dict[str, dict[str, float]] = {}
    if metric not in IDENTITY_TO_INPUT:
        series[INPUT] = {row.cell: row.input for row in rows}
    for row in rows:
        series.setdefault(row.recipe, {})[row.cell] = row.restored
    shown = {name: _drawable(points, metric) for name, points in list(series.items())[:MOST]}
    return curves(_titled(rows[0]), SEVERITY, ALONE, shown)


def metric_table(
    table: Sequence[Row], metric: str, recipes: Sequence[str]
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows: a line per degradation; the input, then each recipe's mean and its gain with the interval."""
    cells = of_metric(table, metric)
    there = [cell for cell in CELLS if any((cell, recipe) in cells for recipe in recipes)]
    if metric in IDENTITY_TO_INPUT:
        return ("degradation", *recipes), [(_spoken(c), *(_mean(cells.get((c, r))) for r in recipes)) for c in there]
    head = ("degradation", INPUT, *(part for recipe in recipes for part in (recipe, "gain")))
    lines = []
    for cell in there:
        found = [cells.get((cell, recipe)) for recipe in recipes]
        before = next(number(row.input) for row in found if row)
        lines.append((_spoken(cell), before, *(part for row in found for part in (_mean(row), _gain(row)))))
    return head, lines


def _opening(facts: Mapping[str, Any]) -> list[Block]:
    names, kinds = ", ".join(facts["recipes"]), len(facts["degradations"])
    return [
        Paragraph(
            f"{facts['faces']} clean faces ({facts['source']}) were degraded in {kinds} known ways and restored "
            f"by {names}. Every number is a mean over the faces; a gain is the difference from the degraded input, "
            f"positive where the restored face is better. From {pictures_needed(0.95)} faces on its 95 % interval "
            "stands beside it, and a star marks an interval that leaves out zero."
        ),
        Paragraph(
            "In the cells from mild to very severe the faces were reduced and enlarged again by bicubic interpolation, "
            "so that the input is what bicubic enlargement makes of the small face: the gain over the input is the "
            "gain over bicubic."
        ),
        Paragraph(facts["limits"]),
    ]


def _metric(table: Sequence[Row], metric: str, recipes: Sequence[str]) -> list[Block]:
    first = next(iter(of_metric(table, metric).values()))
    head, lines = metric_table(table, metric, recipes)
    return [
        Heading(_titled(first)),
        Table(head, lines),
        Figure(curve_path(metric), f"Curves of {first.title}", _note(metric)),
    ]


def _titled(row: Row) -> str:
    """Noise is sharp, too: more sharpness is not better by itself."""
    return row.title if row.metric in NOT_RANKED else f"{row.title} ({row.better} is better)"


def _drawable(points: Mapping[str, float], metric: str) -> dict[str, float]:
    """Without the number that stands for an infinite one, which would press the curves flat."""
    return {cell: value for cell, value in points.items() if metric != "psnr" or value < ALIKE}


def _note(metric: str) -> str:
    if metric in IDENTITY_TO_INPUT:
        return "Similarity to the degraded input, which is 1 for the input itself; a severe input is a poor witness."
    if metric == "psnr":
        return f"dB; {ALIKE:g} stands for pictures that do not differ, and is not drawn."
    if metric == "sharpness":
        return "Noise is sharp, too: more is not better by itself."
    return "Steps of one ladder are joined by lines; the others stand alone."


def _missing(facts: Mapping[str, Any]) -> list[Block]:
    told = [f"{metric}: {why}." for metric, why in facts["missing"].items()]
    told += [f"{recipe}: {n} {code}." for recipe, codes in facts["problems"].items() for code, n in codes.items()]
    told += [f"{path} was not taken: {why}." for path, why in facts["refused"].items()]
    return [Heading("What was not measured"), *(Paragraph(text) for text in told)] if told else []


def _effort(facts: Mapping[str, Any]) -> list[Block]:
    efforts = [effort_cells(recipe, effort) for recipe, effort in facts["effort"].items() if effort]
    return [Heading("Time"), Table(EFFORT_HEAD, efforts)] if efforts else []


def _pictures(strips: Mapping[str, str], recipes: Sequence[str]) -> list[Block]:
    order = ", ".join(("clean", "degraded", *recipes))
    shown = [Figure(path, f"{order}: {_spoken(cell)}", _spoken(cell)) for cell, path in strips.items()]
    return [Heading("The first face"), Paragraph(f"From left to right: {order}."), *shown] if shown else []


def _grid(facts: Mapping[str, Any]) -> list[Block]:
    text = "Strengths are those of tasks/degrade.py; lengths are in pixels of a 512-pixel face."
    return [
        Heading("The degradations"),
        Paragraph(text),
        Table(("degradation", "strengths"), _strengths(facts), text=True),
    ]


def _strengths(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(_spoken(cell), described(CELLS[cell])) for cell in facts["degradations"]]


def _mean(row: Row | None) -> str:
    return "–" if row is None else number(row.restored)


def _gain(row: Row | None) -> str:
    if row is None:
        return "–"
    star = "" if row.verdict == "not told apart" else " *"
    ends = (
        ""
        if row.low is None or row.high is None or row.low == row.high
        else f" ({signed(row.low)} … {signed(row.high)})"
    )
    return f"{signed(row.gain)}{ends}{star}"


def _spoken(cell: str) -> str:
    return cell.replace("_", " ")
