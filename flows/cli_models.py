"""`mpsr models`: which weights there are, where they come from, and how they get here. Runs never download."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows import tell, terminal

app = typer.Typer(no_args_is_help=True, help="Weights: list, pull, add, verify. Runs never download.")

Json = Annotated[bool, typer.Option("--json", help="print one JSON object")]
Names = Annotated[list[str] | None, typer.Argument(help="names in the table; none = what the recipe needs")]


@app.command("list")
def list_(
    recipe: Annotated[str | None, typer.Option("--recipe", "-r", help="only what this recipe needs")] = None,
    json_: Json = False,
) -> None:
    """Every file: where from, how big, under which licence, and whether it is here."""
    store = _store()
    rows = [_row(store, name) for name in _wanted(store, None, recipe)]
    terminal.print_json({"schema": 1, "weights": rows}) if json_ else tell.print_weights(rows)


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
    store.pull(wanted, from_dir=from_dir, mirror=mirror, accept_licences=accept_licence or ())
    terminal.out.print(f"{len(wanted)} files are in {store.folder}")


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
def verify(names: Names = None) -> None:
    """Hash every file that is here again and compare."""
    store = _store()
    results = store.verify(names)
    problems = {name: problem for name, problem in results.items() if problem is not None}
    for name, problem in problems.items():
        terminal.print_error(f"{name}: {problem}")
    if problems:
        raise typer.Exit(1)
    terminal.out.print(f"{len(results)} files are what they should be")


def _store() -> Any:
    from infra.settings import load_settings
    from infra.weights import open_store

    settings = load_settings()
    return open_store(settings.weights_dir, settings.weights_table)


def _wanted(store: Any, names: list[str] | None, recipe: str | None) -> list[str]:
    if names:
        return names
    if recipe is None:
        return list(store.table)
    from tasks.recipe import load_recipe

    stages = load_recipe(recipe).stages
    return sorted({name for stage in stages for name in (*stage.weights, *stage.optional_weights)})


def _row(store: Any, name: str) -> dict[str, Any]:
    status, weight = store.status(name), store.table[name]
    licence = store.table.licence(name)
    return {
        "name": name,
        "title": weight.title,
        "file": weight.file,
        "bytes": weight.bytes or status.bytes,
        "sha256": weight.sha256,
        "licence": licence.title,
        "commercial": licence.commercial,
        "recipes": list(weight.recipes),
        "sources": [*weight.sources, *weight.mirrors],
        "present": status.present,
        "verified": status.verified,
        "what_to_do": "" if status.present else store.instructions(name),
    }
