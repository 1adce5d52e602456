"""What `mpsr promotions` and `mpsr rollback` say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from flows.cli.words.terminal import out, plain, say


def print_promotions(rows: Sequence[Mapping[str, Any]]) -> None:
    """One line of a table per promotion, oldest first."""
    table = Table(show_edge=False)
    for heading in ("promotion", "recipe", "state", "promoted", "kept", "new", "why nothing was promoted"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        counts = row["counts"]
        fresh = counts.get("take", 0) + counts.get("original", 0)
        numbers = (str(n) for n in (counts.get("promote", 0), counts.get("keep", 0), fresh))
        table.add_row(row["id"], plain(row["recipe"]), row["state"], *numbers, plain("; ".join(row["refused_because"])))
    out.print(table)


def print_rollback(data: Mapping[str, Any]) -> None:
    """What was taken back."""
    say(f"promotion {data['id']} of recipe {data['recipe']}: {data['pictures']} pictures have their older result again")
    if data["moved_on"]:
        say(f"{data['moved_on']} pictures were made again since, and stay as they are")
    say("the report still shows what was promoted; `mpsr report` writes it anew")
