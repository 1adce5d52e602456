"""`mpsr`: the command line. Results go to stdout, progress and errors to stderr; see EXIT_CODES.

This module imports nothing heavy: torch, Ray and Prefect are loaded by the commands that need them.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from flows import cli_benchmark, cli_compare
from flows.cli import measure as cli_evaluate
from flows.cli import models as cli_models
from flows.cli import night as cli_promotion
from flows.cli.options import (
    COMPUTE,
    Aligned,
    Exclude,
    Include,
    Json,
    RecipeName,
    Set,
    Source,
    Thumbnails,
    Workspace,
    plain_settings,
    settings_of,
)
from flows.cli.words import restoration as tell
from flows.cli.words import terminal

EXIT_CODES = {
    0: "all handled",
    1: "finished, but some files failed or were quarantined",
    2: "wrong usage or configuration; nothing was done",
    3: "could not finish; what is done is kept, run again to resume",
    130: "interrupted",
}
RESTORE, LOOK, MEASURE, NIGHT, MACHINE = "Restore", "Look", "Measure", "Nightly gate", "This machine"
"""Panels of `mpsr --help`, in the order in which their first command is declared."""

app = typer.Typer(
    name="mpsr",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Restores the faces of large photo archives, and accounts for every file.\n\n"
    "`mpsr demo` shows it on pictures made on the spot; `mpsr run PHOTOS --workspace OUT` does it on yours; "
    "`mpsr doctor` says what this machine can do.",
)


@app.command(epilog="Example: `mpsr run PHOTOS -w OUT --recipe compact --exclude private`", rich_help_panel=RESTORE)
def run(
    source: Source,
    workspace: Workspace,
    recipe: RecipeName = "compact",
    aligned: Aligned = False,
    include: Include = None,
    exclude: Exclude = None,
    set_: Set = None,
    thumbnails: Thumbnails = None,
    json_: Json = False,
) -> None:
    """Restore every face of an archive. Running it again resumes; a second run does only what is left."""
    from flows.cli.local import run_flow

    job = _job(source, workspace, recipe, aligned, include, exclude, set_, thumbnails)
    _finish(run_flow(job), json_, workspace)


@app.command(rich_help_panel=RESTORE)
def retry(
    workspace: Workspace,
    json_: Json = False,
) -> None:
    """Run a workspace's last job again and take failed and quarantined pictures on once more."""
    from flows.cli.local import run_flow
    from flows.cli.questions.preview import last_job

    _finish(run_flow(last_job(workspace).model_copy(update={"retry": True})), json_, workspace)


@app.command(rich_help_panel=RESTORE)
def scan(source: Source, include: Include = None, exclude: Exclude = None, json_: Json = False) -> None:
    """Look at every file of an archive: how many, of what kind, what cannot be used and why. Writes nothing."""
    from flows.cli.questions.preview import scan_counts

    counts = scan_counts(source, tuple(include or ()), tuple(exclude or ()))
    terminal.print_json(counts) if json_ else tell.print_counts("files found", counts)


@app.command(rich_help_panel=RESTORE)
def plan(
    source: Source,
    workspace: Workspace,
    recipe: RecipeName = "compact",
    aligned: Aligned = False,
    include: Include = None,
    exclude: Exclude = None,
    set_: Set = None,
    preflight: Annotated[
        bool,
        typer.Option(
            "--preflight/--no-preflight",
            help="measure a few pictures where rates are not known",
            rich_help_panel=COMPUTE,
        ),
    ] = True,
    price: Annotated[
        float | None,
        typer.Option("--price-per-gpu-hour", min=0, help="in any currency; gives the cost", rich_help_panel=COMPUTE),
    ] = None,
    json_: Json = False,
) -> None:
    """Everything that `run` does up to the first write: what is to be done and why, weights, disk, time, cost."""
    from flows.cli.questions.preview import preview

    priced = [*(set_ or []), *([] if price is None else [f"price_per_gpu_hour={price}"])]
    data = preview(_job(source, workspace, recipe, aligned, include, exclude, priced, None), preflight=preflight)
    terminal.print_json(data) if json_ else tell.print_plan(data)
    if data["weights_missing"] or data["extras_missing"]:
        raise typer.Exit(2)


@app.command(rich_help_panel=LOOK)
def status(
    workspace: Workspace,
    reasons: Annotated[bool, typer.Option("--reasons", help="list failed and quarantined files with reasons")] = False,
    json_: Json = False,
) -> None:
    """What a workspace holds: outcomes that add up, who is running, how far the last run came."""
    from flows.cli.questions.preview import workspace_status

    data = workspace_status(workspace, reasons)
    terminal.print_json(data) if json_ else tell.print_status(data)


@app.command(rich_help_panel=LOOK)
def report(workspace: Workspace, thumbnails: Thumbnails = None) -> None:
    """Write the static report of a workspace, or of an evaluation in its folder, anew and print where it is."""
    from flows.evaluation.page import is_evaluation, rewrite_evaluation_report
    from flows.restoration.page import rewrite_report

    rewrite = rewrite_evaluation_report if is_evaluation(workspace) else rewrite_report
    terminal.out.print(rewrite(workspace, thumbnails), soft_wrap=True)


@app.command(rich_help_panel=LOOK)
def explain(
    file: Annotated[
        str, typer.Argument(help="a restored file, or its path relative to the archive", show_default=False)
    ],
    workspace: Annotated[
        str | None, typer.Option("--workspace", "-w", help="default: the one the file lies in")
    ] = None,
    json_: Json = False,
) -> None:
    """Which input, stages, weights, scores and decisions made a file what it is, from the ledger."""
    from flows.cli.questions.preview import explain as explain_file

    data = explain_file(file, workspace)
    terminal.print_json(data) if json_ else tell.print_explanation(data)


app.command(epilog="Example: mpsr evaluate OUT --against PHOTOS", rich_help_panel=MEASURE)(cli_evaluate.evaluate)
app.command(epilog="Example: mpsr compare recipe:compact OUT --against PHOTOS", rich_help_panel=MEASURE)(
    cli_compare.compare
)
app.command(epilog="Example: mpsr benchmark FACES --recipe compact --recipe mine.toml", rich_help_panel=MEASURE)(
    cli_benchmark.benchmark
)
app.command(rich_help_panel=NIGHT)(cli_promotion.promotions)
app.command(epilog="Example: mpsr rollback OUT", rich_help_panel=NIGHT)(cli_promotion.rollback)
app.add_typer(cli_models.app, name="models", rich_help_panel=MACHINE)


@app.command(rich_help_panel=MACHINE)
def clean(
    workspace: Workspace,
    older_than_days: Annotated[float, typer.Option(help="intermediates older than this go", min=0)] = 7.0,
    keep_snapshots: Annotated[int, typer.Option(help="snapshots of the ledger to keep", min=1)] = 2,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be freed")] = False,
    json_: Json = False,
) -> None:
    """Drop old intermediates and snapshots by the retention policy, and say what that frees."""
    from flows.cli.questions.preview import clean_workspace

    freed = clean_workspace(workspace, older_than_days, keep_snapshots, dry_run)
    terminal.print_json(freed) if json_ else tell.print_counts("would free" if dry_run else "freed", freed)


@app.command(rich_help_panel=MACHINE)
def train(
    name: Annotated[str, typer.Argument(help="a network of the compact recipe, or niqe", show_default=False)],
    data: Annotated[Path, typer.Option(help="folder of aligned faces, 512 px", show_default=False)],
    output: Annotated[Path, typer.Option(help="folder for checkpoints and weights")] = Path("training"),
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="a setting, as NAME=VALUE: steps, batch, learning_rate, seed, start, device, yunet …"
        ),
    ] = None,
) -> None:
    """Train one of the small networks on any folder of aligned faces; it resumes where it was stopped."""
    from tasks.training.session import train_with_bar

    tell.print_counts(f"trained {name}", train_with_bar(name, data, output, plain_settings(set_)))


@app.command(rich_help_panel=MACHINE)
def doctor(json_: Json = False) -> None:
    """What this machine can do (cores, memory, disk, GPU, weights, ports), and what to do about what it cannot."""
    from flows.cli.questions.doctor import examine

    checks = examine()
    terminal.print_json({"schema": 1, "checks": checks}) if json_ else tell.print_checks(checks)
    if any(check["level"] == "bad" for check in checks):
        raise typer.Exit(1)


@app.command(rich_help_panel=RESTORE)
def demo(
    folder: Annotated[Path, typer.Option(help="where to put archive, originals and workspace")] = Path(
        "data_manifests/demo"
    ),
    json_: Json = False,
) -> None:
    """Restore two dozen pictures made on the spot, and print what was truly gained."""
    from flows.demo import run_demo

    raise typer.Exit(run_demo(folder, json_))


@app.command(rich_help_panel=MACHINE)
def serve(
    port: Annotated[int, typer.Option(help="of the dashboard, on loopback", min=1024, max=65535)] = 4200,
) -> None:
    """Bring up Prefect's server, the deployments and a worker on this machine, until Ctrl-C."""
    from flows.cli.server import serve as serve_until_interrupted

    serve_until_interrupted(port)


def main() -> None:
    """The entry point: runs a command and turns errors that people can act on into messages and exit codes."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except Exception as error:
        code = exit_code_of(error)
        if code is None or os.environ.get("MPSR_DEBUG"):
            terminal.err.print_exception()
        code = 3 if code is None else code
        terminal.print_error(str(error), "run the same command again to resume" if code == 3 else "")
        sys.exit(code)


def _interrupt(*_: object) -> None:
    """A container that is stopped is told so by SIGTERM: wind down as for Ctrl-C."""
    raise KeyboardInterrupt


def exit_code_of(error: Exception) -> int | None:
    """2 or 3 for errors that are for people, by the classes that our own packages declare; None for defects."""
    names = {cls.__name__ for cls in type(error).__mro__}
    if names & {"JobError", "RecipeError", "SettingsError", "WeightsError", "ExtraMissing", "WorkspaceBusy"}:
        return 2
    if names & {
        "RunStopped",
        "ExecutorError",
        "LeaseLost",
        "StorageError",
        "ClusterError",
        "LedgerError",
        "ServeError",
    }:
        return 3
    return None


def _finish(summary: dict[str, Any], as_json: bool, workspace: str) -> None:
    report_path = f"{workspace.rstrip('/')}/report/index.html"
    terminal.print_json(summary) if as_json else terminal.print_summary(summary, report_path)
    if summary["outcomes"]["failed"] or summary["outcomes"]["quarantined"]:
        raise typer.Exit(1)


def _job(
    source: str,
    workspace: str,
    recipe: str,
    aligned: bool,
    include: list[str] | None,
    exclude: list[str] | None,
    set_: list[str] | None,
    thumbnails: bool | None,
) -> Any:
    from flows.jobs.restoration import job_for

    settings, stages = settings_of(set_)
    if thumbnails is not None:
        settings["report_thumbnails"] = thumbnails
    patterns = {"include": tuple(include or ()), "exclude": tuple(exclude or ())}
    return job_for(
        None, source, workspace, recipe=recipe, aligned=aligned, settings=settings, stages=stages, **patterns
    )
