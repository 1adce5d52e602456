"""Tables of the answers of `mpsr compare` and `mpsr benchmark`, for people at a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from flows.cli.words.terminal import out, plain, say


def print_comparison(facts: Mapping[str, Any]) -> None:
    """Metrics, identity, effort, what was left out, and where the pictures are; `facts` as comparison.json."""
    from tasks.comparing import Difference, IdentityChange
    from tasks.pages.documents import (
        EFFORT_HEAD,
        IDENTITY_HEAD,
        METRICS_HEAD,
        effort_cells,
        identity_cells,
        metric_cells,
    )

    for letter, side in facts["sides"].items():
        say(f"{letter.upper()} is {side['what']}")
    out.print(_table(METRICS_HEAD, [metric_cells(Difference(**row)) for row in facts["differences"]]))
    if facts["identity"]:
        out.print(_table(IDENTITY_HEAD, [identity_cells(IdentityChange(**row)) for row in facts["identity"]]))
    efforts = [
        effort_cells(f"{letter.upper()}, {side['name']}", side["effort"])
        for letter, side in facts["sides"].items()
        if side["effort"]
    ]
    if efforts:
        out.print(_table(EFFORT_HEAD, efforts))
    say(f"faces in both: {facts['pairs']:,} of {facts['pictures']:,} pictures;", _apart(facts))
    for metric, why in facts["not_compared"].items():
        say(f"not compared: {metric}: {why}")
    say(f"page:    {facts['output']}/index.html")


def print_benchmark(facts: Mapping[str, Any]) -> None:
    """A table per metric and where the page is; `facts` as benchmark.json."""
    from tasks.comparing import Row, metrics_in
    from tasks.pages.documents import metric_table

    rows = [Row(**row) for row in facts["rows"]]
    for metric in metrics_in(rows):
        head, lines = metric_table(rows, metric, facts["recipes"])
        title = next(row.title for row in rows if row.metric == metric)
        out.print(_table(head, lines, title))
    for metric, why in facts["missing"].items():
        say(f"not measured: {metric}: {why}")
    say(f"page:    {facts['output']}/index.html")


def _apart(facts: Mapping[str, Any]) -> str:
    """Counts of what is not paired; the names stand in the files."""
    counts = {"in A only": facts["only_a"], "in B only": facts["only_b"], "from other inputs": facts["other_input"]}
    return ", ".join(f"{name}: {n:,}" for name, n in counts.items())


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> Table:
    table = Table(title=title, title_justify="left", show_edge=False)
    for place, title in enumerate(head):
        table.add_column(title, justify="right" if place else "left")
    for row in rows:
        table.add_row(*(plain(cell) for cell in row))
    return table
