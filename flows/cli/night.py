"""`mpsr promotions` and `mpsr rollback`: what the nightly gate decided, and how to take it back."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.words import terminal

Workspace = Annotated[str, typer.Argument(help="a workspace that is reprocessed by night", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object")]


def promotions(workspace: Workspace, json_: Json = False) -> None:
    """What the nightly gate decided: which recipe, how many pictures, what was kept and why."""
    from flows.cli.words.promotion import print_promotions
    from flows.gate import told

    found = told(workspace)
    terminal.print_json(found.model_dump()) if json_ else print_promotions(found)


def rollback(
    workspace: Workspace,
    promotion: Annotated[
        str | None, typer.Argument(help="its id, as `mpsr promotions` says; none = the newest that stands")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="let the next night decide about that recipe anew")] = False,
    json_: Json = False,
) -> None:
    """Put the older results back in place of those that a nightly run promoted. Running it again resumes."""
    from flows.cli.words.promotion import print_rollback
    from flows.gate import roll_back

    done = roll_back(workspace, promotion, again=again)
    terminal.print_json(done.model_dump()) if json_ else print_rollback(done)
