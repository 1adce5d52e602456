"""What `mpsr models list` and `mpsr plan` say of weights: which, how big, under which terms, from where, and how."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from flows.cli.words.terminal import out, say

if TYPE_CHECKING:
    from infra.weights import WeightsRow
    from tasks.recipes import Recipe


def print_weights(rows: Sequence[WeightsRow], recipe: str | None) -> None:
    """The table, and for a recipe also how to get what is not here. It fits 80 columns; addresses are never cut."""
    table = Table(box=None, padding=(0, 1, 0, 0), show_edge=False)
    for heading in ("name", "size", "licence", "commercial", "here"):
        table.add_column(heading, justify="right" if heading == "size" else "left", overflow="fold")
    for row in rows:
        here = "yes" if row.present else "no" if row.needed else "no need"
        table.add_row(row.name, _size(row), row.licence_name, row.commercial, here)
    out.print(table)
    if recipe is None:
        say("`mpsr models list --recipe NAME` says where the files of a recipe come from, and how to get them")
    else:
        print_missing([row for row in rows if not row.present], recipe)


def print_missing(rows: Sequence[WeightsRow], recipe: str) -> None:
    """Every missing file with its origin and its command, then the one command that gets most of them."""
    if not rows:
        return
    print_each(rows)
    needed = [row for row in rows if row.needed]
    if not needed:
        say("\nNothing that the recipe needs is missing: what is listed above is optional.")
        return
    total = sum(row.about_bytes or 0 for row in needed)
    unknown = sum(not row.about_bytes for row in needed)
    beside = f", and {unknown} of unknown size" if unknown else ""
    say(f"\n{len(needed)} needed files are missing, about {human_bytes(total)}{beside}.")
    print_commands(needed, _what_to_pull(needed, recipe))


def print_commands(rows: Sequence[WeightsRow], what: str) -> None:
    """The one command that gets most of the missing files, and the names of those that a person must fetch."""
    terms = sorted({row.licence_name for row in rows if row.must_accept and row.origins})
    accept = "".join(f" --accept-licence {name}" for name in terms)
    say("All that a program can fetch, once you have read the terms:")
    say(f"  mpsr models pull {what}{accept}")
    if by_hand := [row.name for row in rows if not row.origins]:
        say(f"In a browser, as `mpsr models list` says: {', '.join(by_hand)}.")


def _what_to_pull(rows: Sequence[WeightsRow], recipe: str) -> str:
    """The recipe where it is one of ours, else the files by name: a plan knows a recipe's name, not its file."""
    from tasks.recipes import recipe_names

    return f"--recipe {recipe}" if recipe in recipe_names() or recipe.endswith(".toml") else names_to_pull(rows)


def names_to_pull(rows: Sequence[WeightsRow]) -> str:
    """The files that a program can fetch, as `mpsr models pull` takes them."""
    return " ".join(row.name for row in rows if row.origins)


def print_gpu_memory(recipe: Recipe) -> None:
    """What one worker takes on a GPU, from counted bytes; unknown where a stage does not say."""
    from tasks.recipes import CARD_GB, CUDA_GB, gpu_memory

    memory = gpu_memory(recipe)
    if memory.total is None:
        say(f"\nGPU memory: {memory}.")
        return
    stage, working, faces = memory.busiest
    fits = "fits" if memory.total <= CARD_GB else "does not fit"
    parts = f"{memory.weights:.1f} networks, {working:.1f} {stage} with {faces} faces, {CUDA_GB:.1f} CUDA"
    say(f"\nGPU memory: {memory} ({parts}): {fits} a card of {CARD_GB:.0f} GB.")
    say(f"Counted, not measured. On a card of 80 GB `--set micro_batch={memory.faces_on(80)}` uses what is there.")


def print_drawn(recipe: Recipe) -> None:
    """What its stages draw at random; nothing where none does."""
    if drawn := [f"{stage.id} {' and '.join(stage.cls.remembers)}" for stage in recipe.stages if stage.cls.remembers]:
        say(f"Drawn from a seed of each face, the same in every run: {'; '.join(drawn)}.")


def print_each(rows: Sequence[WeightsRow]) -> None:
    """One paragraph a file. No line is wrapped, so that addresses and commands can be copied."""
    for row in rows:
        optional = "" if row.needed else " (optional)"
        out.print(Text.assemble("\n", (row.name, "bold"), f"  {row.title}{optional}"), soft_wrap=True)
        say(f"  size     {_size(row, long=True)}")
        say(f"  licence  {row.licence}; commercial use: {row.commercial}")
        for at, address in enumerate(row.origins):
            say(f"  {'from' if at == 0 else 'or':8} {address}")
        say(f"  do       {row.what_to_do}")


def _size(row: WeightsRow, *, long: bool = False) -> str:
    if row.bytes:
        return human_bytes(row.bytes)
    if row.about_bytes:
        return f"{'about ' if long else '~'}{human_bytes(row.about_bytes)}"
    return "not known" if long else "?"


def human_bytes(n: float) -> str:
    """1536 → `1.5 kB`, in powers of a thousand as disks are sold."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if n < 1000 or unit == "TB":
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    raise AssertionError("unreachable")
