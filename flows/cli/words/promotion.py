"""What `mpsr promotions` and `mpsr rollback` say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from flows.cli.words.terminal import out, say

if TYPE_CHECKING:
    from flows.gate import Promotions, RolledBack


def print_promotions(told: Promotions) -> None:
    """One line of a table per promotion, oldest first."""
    table = Table(show_edge=False)
    for heading in ("promotion", "recipe", "state", "promoted", "kept", "new", "why nothing was promoted"):
        table.add_column(heading, overflow="fold")
    for each in told.promotions:
        fresh = each.counts.get("take", 0) + each.counts.get("original", 0)
        numbers = (str(n) for n in (each.counts.get("promote", 0), each.counts.get("keep", 0), fresh))
        table.add_row(each.id, each.recipe, each.state, *numbers, "; ".join(each.refused_because))
    out.print(table)


def print_rollback(done: RolledBack) -> None:
    """What was taken back."""
    say(f"promotion {done.id} of recipe {done.recipe}: {done.pictures} pictures have their older result again")
    if done.moved_on:
        say(f"{done.moved_on} pictures were made again since, and stay as they are")
    say("the report still shows what was promoted; `mpsr report` writes it anew")
