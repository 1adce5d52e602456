"""`mpsr status`, `report`, `explain`, `verify`: what a workspace holds, how it came about, and whether it is whole."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.options import Json, Thumbnails, Workspace
from flows.cli.words import restoration as tell
from flows.cli.words import terminal


def status(
    workspace: Workspace,
    reasons: Annotated[bool, typer.Option("--reasons", help="list failed and quarantined files with reasons")] = False,
    json_: Json = False,
) -> None:
    """What a workspace holds: outcomes that add up, who is running, how far the last run came."""
    from flows.cli.questions.status import workspace_status

    told = workspace_status(workspace, reasons)
    terminal.print_json(told.model_dump(mode="json")) if json_ else tell.print_status(told)


def report(workspace: Workspace, thumbnails: Thumbnails = None) -> None:
    """Write the static report of a workspace, or of an evaluation in its folder, anew and print where it is."""
    from flows.evaluation import is_evaluation, rewrite_evaluation_report
    from flows.restoration import rewrite_report

    rewrite = rewrite_evaluation_report if is_evaluation(workspace) else rewrite_report
    terminal.out.print(rewrite(workspace, thumbnails), soft_wrap=True)


def explain(
    file: Annotated[
        str,
        typer.Argument(
            help="a restored file or an original, wherever it lies now; or its path in the archive", show_default=False
        ),
    ],
    workspace: Annotated[
        str | None, typer.Option("--workspace", "-w", help="default: the one the file lies in")
    ] = None,
    faces: Annotated[bool, typer.Option("--faces", help="what became of every face, with its scores")] = False,
    json_: Json = False,
) -> None:
    """Which input, stages, weights, scores and decisions made a file what it is, from the ledger."""
    from flows.cli.questions.explain import explain as explain_file

    told = explain_file(file, workspace)
    terminal.print_json(told.model_dump(mode="json")) if json_ else tell.print_explanation(told, faces=faces)


def verify(workspace: Workspace, json_: Json = False) -> None:
    """Read everything in a workspace and compare it with its checksums: ledger, intermediates, restored files."""
    from flows.jobs import workspace_at
    from flows.restoration import verify as verify_workspace

    told = verify_workspace(workspace_at(workspace))
    terminal.print_json(told.model_dump(mode="json")) if json_ else tell.print_verification(told)
    if not told.is_whole:
        raise typer.Exit(1)
