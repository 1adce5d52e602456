"""Tables of the answers of `mpsr compare` and `mpsr benchmark`, for people at a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from flows.cli.words.terminal import out, say

if TYPE_CHECKING:
    from tasks.comparing import BenchmarkFacts, ComparisonFacts


def print_comparison(facts: ComparisonFacts) -> None:
    """Metrics, identity, effort, what was left out, and where the pictures are."""
    from tasks.pages.documents import (
        EFFORT_HEAD,
        IDENTITY_HEAD,
        METRICS_HEAD,
        identity_cells,
        metric_cells,
        side_efforts,
    )

    for letter, side in facts.sides.items():
        say(f"{letter.upper()} is {side.what}")
    out.print(_table(METRICS_HEAD, [metric_cells(row) for row in facts.differences]))
    if facts.identity:
        out.print(_table(IDENTITY_HEAD, [identity_cells(row) for row in facts.identity]))
    if efforts := side_efforts(facts.sides):
        out.print(_table(EFFORT_HEAD, efforts))
    apart = {"in A only": facts.only_a, "in B only": facts.only_b, "from other inputs": facts.other_input}
    counts = ", ".join(f"{name}: {n:,}" for name, n in apart.items())
    say(f"faces in both: {facts.pairs:,} of {facts.pictures:,} pictures;", counts)
    for metric, why in facts.not_compared.items():
        say(f"not compared: {metric}: {why}")
    say(f"page:    {facts.output}/index.html")


def print_benchmark(facts: BenchmarkFacts) -> None:
    """A table per metric and where the page is."""
    from tasks.comparing import metrics_in
    from tasks.pages.documents import metric_table

    for metric in metrics_in(facts.rows):
        head, lines = metric_table(facts, metric)
        title = next(row.title for row in facts.rows if row.metric == metric)
        out.print(_table(head, lines, title))
    for metric, why in facts.missing.items():
        say(f"not measured: {metric}: {why}")
    say(f"page:    {facts.output}/index.html")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> Table:
    table = Table(title=title, title_justify="left", show_edge=False)
    for place, title in enumerate(head):
        table.add_column(title, justify="right" if place else "left")
    for row in rows:
        table.add_row(*row)
    return table
