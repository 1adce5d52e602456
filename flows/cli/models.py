"""`mpsr models`: which weights there are, where they come from, and how they get here. Runs never download."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from flows.cli.words import terminal
from flows.cli.words import weights as tell_weights
from infra.facts import Facts
from infra.weights import WeightsRow, weights_row

if TYPE_CHECKING:
    from infra.weights import WeightsStore

app = typer.Typer(no_args_is_help=True, help="Weights: list, pull, add, verify. Runs never download.")

Json = Annotated[bool, typer.Option("--json", help="print one JSON object")]
Names = Annotated[list[str] | None, typer.Argument(help="names in the table; none = what the recipe needs")]


class Listing(Facts):
    """What `mpsr models list --json` prints."""

    weights: tuple[WeightsRow, ...]


@app.command("list")
def list_(
    names: Annotated[list[str] | None, typer.Argument(help="names in the table; none = all")] = None,
    recipe: Annotated[str | None, typer.Option("--recipe", "-r", help="only what this recipe needs")] = None,
    json_: Json = False,
) -> None:
    """Every file: where from, how big, under which licence, and whether it is here."""
    store = _store()
    wanted = _wanted(store, names, recipe)
    rows = [weights_row(store, name, needed=needed) for name, needed in wanted.items()]
    if json_:
        terminal.print_json(Listing(weights=tuple(rows)).model_dump())
    else:
        tell_weights.print_weights(rows, recipe)
        if recipe is not None and not names:
            from tasks.recipes import load_recipe

            tell_weights.print_gpu_memory(load_recipe(recipe))
            tell_weights.print_drawn(load_recipe(recipe))


@app.command()
def pull(
    names: Names = None,
    recipe: Annotated[str | None, typer.Option("--recipe", "-r", help="everything this recipe needs")] = None,
    from_dir: Annotated[Path | None, typer.Option(help="take the files from this folder; no network")] = None,
    mirror: Annotated[str | None, typer.Option(help="URL prefix to try before the official sources")] = None,
    accept_licence: Annotated[list[str] | None, typer.Option(help="a restrictive licence that you accept")] = None,
) -> None:
    """Download weights: resumable, hashed, in parallel."""
    store = _store()
    if not names and not recipe:
        raise typer.BadParameter("expected names of files, or --recipe NAME")
    wanted = [name for name, needed in _wanted(store, names, recipe).items() if needed]
    anything = names or from_dir or mirror  # then what only a browser can fetch is tried, too
    only_by_hand = [
        name for name in wanted if not (anything or store.status(name).present or store.table[name].can_pull)
    ]
    pulled = [name for name in wanted if name not in only_by_hand]
    with _bar(pulled) as advance:
        store.pull(pulled, from_dir=from_dir, mirror=mirror, accept_licences=accept_licence or (), progress=advance)
    terminal.out.print(f"{len(pulled)} files are in {store.folder}")
    if only_by_hand:
        terminal.print_error(f"{len(only_by_hand)} files are still missing, which only a browser can fetch:")
        tell_weights.print_each([weights_row(store, name) for name in only_by_hand])
        raise typer.Exit(1)


@app.command()
def add(
    name: str,
    file: Path,
    accept_licence: Annotated[list[str] | None, typer.Option(help="a restrictive licence that you accept")] = None,
) -> None:
    """Take a file that you have got yourself (Google Drive, a colleague) into the store, checked."""
    store = _store()
    store.add(name, file, accept_licences=accept_licence or ())
    terminal.out.print(f"{name}: {store.path(name)}  sha256 {store.sha256(name)}", soft_wrap=True)


@app.command()
def verify(
    names: Annotated[
        list[str] | None, typer.Argument(help="names in the table; none = every file that is here")
    ] = None,
) -> None:
    """Hash every file that is here again and compare."""
    store = _store()
    results = store.verify(names)
    problems = {name: problem for name, problem in results.items() if problem is not None}
    for name, problem in problems.items():
        terminal.print_error(f"{name}: {problem}")
    if problems:
        raise typer.Exit(1)
    terminal.out.print(f"files that are what they should be: {len(results)}")


def recipes(json_: Json = False) -> None:
    """Which recipe for whom: arithmetic, memory, downloads and terms of every one that ships."""
    from dataclasses import asdict

    from tasks.recipes import offers

    if json_:
        terminal.print_json({"recipes": [asdict(offer) for offer in offers()]})
    else:
        tell_weights.print_recipes(offers())


@contextmanager
def _bar(names: Sequence[str]) -> Iterator[Callable[[str, int, int | None], None]]:
    """A line on stderr per file that is being fetched; yields what is to be told of it."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=terminal.err) as bar:
        lines = {name: bar.add_task(name, total=None, visible=False) for name in names}
        yield lambda name, here, total: bar.update(lines[name], completed=here, total=total, visible=True)


def _store() -> WeightsStore:
    from infra.settings import load_settings
    from infra.weights import open_store

    settings = load_settings()
    return open_store(settings.weights_dir, settings.weights_table)


def _wanted(store: WeightsStore, names: list[str] | None, recipe: str | None) -> dict[str, bool]:
    """Name → whether it is needed, in the order of use; a recipe can do without the rest."""
    if names or recipe is None:
        return dict.fromkeys(names or store.table, True)
    from tasks.recipes import load_recipe

    stages = load_recipe(recipe).stages
    needed = dict.fromkeys((name for stage in stages for name in stage.weights), True)
    return needed | {name: False for stage in stages for name in stage.optional_weights if name not in needed}
