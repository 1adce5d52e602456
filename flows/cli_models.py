"""`mpsr models`: which weights there are, where they come from, and how they get here. Runs never download."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows import terminal

app = typer.Typer(no_args_is_help=True, help="Weights: list, pull, add, verify. Runs never download.")

Json = Annotated[bool, typer.Option("--json", help="print one JSON object")]
Names = Annotated[list[str] | None, typer.Argument(help="names in the table; none = what the recipe needs")]


@app.command("list")
def list_(
    recipe: Annotated[str | None, typer.Option("--recipe", "-r", help="only what this recipe needs")] = None,
    json_: Json = False,
) -> None:
    """Every file: where from, how big, under which licence, and whether it is here."""
    rows = [_row(store.status(name), recipe) for store in [_store()] for name in _wanted(store, None, recipe)]
    terminal.print_json({"schema": 1, "weights": rows}) if json_ else terminal.print_weights(rows)


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
    wanted = _wanted(store, names, recipe)
    store.pull(wanted, from_dir=from_dir, mirror=mirror, accept_licences=set(accept_licence or ()))
    terminal.out.print(f"{len(wanted)} files are in {store.folder}")


@app.command()
def add(name: str, file: Path) -> None:
    """Take a file that you have got yourself (Google Drive, a colleague) into the store, checked."""
    store = _store()
    store.add(name, file)
    terminal.out.print(f"{name}: {store.path(name)}  sha256 {store.sha256(name)}", soft_wrap=True)


@app.command()
def verify(names: Names = None) -> None:
    """Hash every file that is here again and compare."""
    store = _store()
    problems = store.verify(names)
    for problem in problems:
        terminal.print_error(problem)
    if problems:
        raise typer.Exit(1)
    terminal.out.print("all files that are here are what they should be")


def _store() -> Any:
    from infra.settings import load_settings
    from infra.weights import WeightsStore

    return WeightsStore(load_settings().weights_dir)


def _wanted(store: Any, names: list[str] | None, recipe: str | None) -> list[str]:
    if names:
        return names
    if recipe is None:
        return list(store.table.names)
    from tasks.recipe import load_recipe

    stages = load_recipe(recipe).stages
    return sorted({name for stage in stages for name in (*stage.weights, *stage.optional_weights)})


def _row(status: Any, recipe: str | None) -> dict[str, Any]:
    return status.as_dict()
