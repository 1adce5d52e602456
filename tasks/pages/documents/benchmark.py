"""What a benchmark says, as a document for people: tables, curves and pictures, and what the numbers do not say.

It gets numbers and names and gives blocks of `document`; it reads and writes no file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tasks.comparing import (
    CELLS,
    SEVERITY,
    BenchmarkFacts,
    GridRow,
    described,
    metrics_in,
    of_metric,
    pictures_needed,
)
from tasks.measuring import ALIKE, meaning_of
from tasks.pages.documents.comparison import EFFORT_HEAD, effort_cells, signed
from tasks.pages.documents.curves import MOST, curves
from tasks.pages.documents.document import Block, Figure, Heading, Paragraph, Table
from tasks.pages.shared.words import number

INPUT = "input"
ALONE = tuple(cell for cell in CELLS if cell not in SEVERITY)


def benchmark_blocks(facts: BenchmarkFacts, strips: Mapping[str, str]) -> list[Block]:
    """The whole document. strips: cell → path of its pictures."""
    numbers = [block for metric in metrics_in(facts.rows) for block in _metric(facts, metric)]
    return [*_opening(facts), *numbers, *_missing(facts), *_effort(facts), *_pictures(facts, strips), *_grid(facts)]


def curve_path(metric: str) -> str:
    """Where a metric's curves lie beside the page."""
    return f"curves/{metric}.svg"


def metric_curves(table: Sequence[GridRow], metric: str) -> str:
    """A metric's curves: the input as it was, and every recipe, as many as can be told apart."""
    cells = of_metric(table, metric)
    rows = list(cells.values())
    series: dict[str, dict[str, float]] = {}
    if not _is_to_input(metric):
        series[INPUT] = {row.cell: row.input for row in rows}
    for row in rows:
        series.setdefault(row.recipe, {})[row.cell] = row.restored
    shown = {name: _drawable(points, metric) for name, points in list(series.items())[:MOST]}
    return curves(_titled(rows[0]), SEVERITY, ALONE, shown)


def metric_table(facts: BenchmarkFacts, metric: str) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows: a line per degradation; the input, then each recipe's mean and its gain with the interval."""
    cells, recipes = of_metric(facts.rows, metric), facts.recipes
    there = [cell for cell in CELLS if any((cell, recipe) in cells for recipe in recipes)]
    if _is_to_input(metric):
        return ("degradation", *recipes), [(_spoken(c), *(_mean(cells.get((c, r))) for r in recipes)) for c in there]
    head = ("degradation", INPUT, *(part for recipe in recipes for part in (recipe, "gain")))
    lines = []
    for cell in there:
        found = [cells.get((cell, recipe)) for recipe in recipes]
        before = next(number(row.input) for row in found if row)
        lines.append((_spoken(cell), before, *(part for row in found for part in (_mean(row), _gain(row)))))
    return head, lines


def _opening(facts: BenchmarkFacts) -> list[Block]:
    names, kinds = ", ".join(facts.recipes), len(facts.degradations)
    return [
        Paragraph(
            f"{facts.faces} clean faces ({facts.source}) were degraded in {kinds} known ways and restored "
            f"by {names}. Every number is a mean over the faces; a gain is the difference from the degraded input, "
            f"positive where the restored face is better. From {pictures_needed(0.95)} faces on its 95 % interval "
            "stands beside it, and a star marks an interval that leaves out zero."
        ),
        Paragraph(
            "In the cells from mild to very severe the faces were reduced and enlarged again by bicubic interpolation, "
            "so that the input is what bicubic enlargement makes of the small face: the gain over the input is the "
            "gain over bicubic."
        ),
        Paragraph(facts.limits),
    ]


def _metric(facts: BenchmarkFacts, metric: str) -> list[Block]:
    first = next(iter(of_metric(facts.rows, metric).values()))
    head, lines = metric_table(facts, metric)
    return [
        Heading(_titled(first)),
        Table(head, lines),
        Figure(curve_path(metric), f"Curves of {first.title}", _note(metric)),
    ]


def _is_to_input(metric: str) -> bool:
    """Measured against the input, which is of course like itself: a gain would mean nothing."""
    return meaning_of(metric).kind == "identity"


def _titled(row: GridRow) -> str:
    """Noise is sharp, too: more sharpness is not better by itself."""
    return f"{row.title} ({row.better} is better)" if meaning_of(row.metric).ranked else row.title


def _drawable(points: Mapping[str, float], metric: str) -> dict[str, float]:
    """Without the number that stands for an infinite one, which would press the curves flat."""
    return {cell: value for cell, value in points.items() if metric != "psnr" or value < ALIKE}


def _note(metric: str) -> str:
    if _is_to_input(metric):
        return "Similarity to the degraded input, which is 1 for the input itself; a severe input is a poor witness."
    if metric == "psnr":
        return f"dB; {ALIKE:g} stands for pictures that do not differ, and is not drawn."
    if not meaning_of(metric).ranked:
        return "Noise is sharp, too: more is not better by itself."
    return "Steps of one ladder are joined by lines; the others stand alone."


def _missing(facts: BenchmarkFacts) -> list[Block]:
    told = [f"{metric}: {why}." for metric, why in facts.missing.items()]
    told += [f"{recipe}: {n} {code}." for recipe, codes in facts.problems.items() for code, n in codes.items()]
    told += [f"{path} was not taken: {why}." for path, why in facts.refused.items()]
    return [Heading("What was not measured"), *(Paragraph(text) for text in told)] if told else []


def _effort(facts: BenchmarkFacts) -> list[Block]:
    efforts = [effort_cells(recipe, effort) for recipe, effort in facts.effort.items() if effort]
    return [Heading("Time"), Table(EFFORT_HEAD, efforts)] if efforts else []


def _pictures(facts: BenchmarkFacts, strips: Mapping[str, str]) -> list[Block]:
    order = ", ".join(("clean", "degraded", *facts.recipes))
    shown = [Figure(path, f"{order}: {_spoken(cell)}", _spoken(cell)) for cell, path in strips.items()]
    return [Heading("The first face"), Paragraph(f"From left to right: {order}."), *shown] if shown else []


def _grid(facts: BenchmarkFacts) -> list[Block]:
    strengths = [(_spoken(cell), described(CELLS[cell])) for cell in facts.degradations]
    return [
        Heading("The degradations"),
        Paragraph("Strengths are those of tasks/archive/degradation.py; lengths are in pixels of a 512-pixel face."),
        Table(("degradation", "strengths"), strengths, text=True),
    ]


def _mean(row: GridRow | None) -> str:
    return "–" if row is None else number(row.restored)


def _gain(row: GridRow | None) -> str:
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
