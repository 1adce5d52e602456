"""`mpsr run`, `retry`, `scan`, `plan`, `demo`: pictures restored, and what that would take."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from flows.cli.options import (
    COMPUTE,
    Aligned,
    EngineName,
    Exclude,
    Include,
    Json,
    RecipeName,
    Set,
    Source,
    Thumbnails,
    Workspace,
    asked,
)
from flows.cli.words import restoration as tell
from flows.cli.words import terminal

if TYPE_CHECKING:
    from flows.jobs import Job
    from flows.session import Summary
    from tasks.archive import Expected, Gain

SETTINGS = ("report_thumbnails", "price_per_gpu_hour", "engine")
"""Settings of a run that are options of their own."""


def run(
    source: Source,
    workspace: Workspace,
    recipe: RecipeName = "compact",
    aligned: Aligned = False,
    include: Include = None,
    exclude: Exclude = None,
    settings: Set = None,
    engine: EngineName = None,
    report_thumbnails: Thumbnails = None,
    json_: Json = False,
) -> None:
    """Restore every face of an archive or of one picture. Running it again resumes and does only what is left."""
    job = _job(locals())
    from flows.cli.local import run_job

    _finish(run_job(job), json_, workspace)


def retry(workspace: Workspace, json_: Json = False) -> None:
    """Run a workspace's last job again and take failed and quarantined pictures on once more."""
    from flows.cli.local import run_job
    from flows.session import last_job

    _finish(run_job(last_job(workspace).model_copy(update={"retry": True})), json_, workspace)


def scan(source: Source, include: Include = None, exclude: Exclude = None, json_: Json = False) -> None:
    """Look at every file of an archive: how many, of what kind, what cannot be used and why. Writes nothing."""
    from flows.cli.questions.preview import scan_counts

    counts = scan_counts(source, tuple(include or ()), tuple(exclude or ()))
    terminal.print_json(counts) if json_ else tell.print_counts("files found", counts)


def plan(
    source: Source,
    workspace: Workspace,
    recipe: RecipeName = "compact",
    aligned: Aligned = False,
    include: Include = None,
    exclude: Exclude = None,
    settings: Set = None,
    engine: EngineName = None,
    preflight: Annotated[
        bool,
        typer.Option(
            "--preflight/--no-preflight",
            help="measure a few pictures where rates are not known",
            rich_help_panel=COMPUTE,
        ),
    ] = True,
    price_per_gpu_hour: Annotated[
        float | None,
        typer.Option("--price-per-gpu-hour", min=0, help="in any currency; gives the cost", rich_help_panel=COMPUTE),
    ] = None,
    json_: Json = False,
) -> None:
    """Everything that `run` does up to the first write: what is to be done and why, weights, disk, time, cost."""
    job = _job(locals())
    from flows.cli.questions.engine import placed
    from flows.cli.questions.preview import preview

    told = preview(placed(job), preflight=preflight)
    terminal.print_json(told.model_dump(mode="json")) if json_ else tell.print_plan(told)
    if told.weights_missing or told.extras_missing:
        raise typer.Exit(2)


def demo(
    folder: Annotated[Path, typer.Option(help="where to put archive, originals and workspace")] = Path(
        "data_manifests/demo"
    ),
    json_: Json = False,
) -> None:
    """Restore two dozen pictures made on the spot, and print what was truly gained."""
    raise typer.Exit(_demo(folder, json_))


def _finish(summary: Summary, as_json: bool, workspace: str) -> None:
    place = workspace.rstrip("/")
    if as_json:
        terminal.print_json(summary.model_dump(mode="json"))
    else:
        tell.print_summary(summary, f"{place}/report/index.html")
        terminal.say(f"restored: {place}/restored")
    if summary.outcomes["failed"] or summary.outcomes["quarantined"]:
        raise typer.Exit(1)


def _job(options: Mapping[str, Any]) -> Job:
    from flows.jobs import Job, job_for

    fields = asked(Job, options)
    fields["settings"] |= {name: options[name] for name in SETTINGS if options.get(name) is not None}
    return job_for(**fields)


def _demo(folder: Path, as_json: bool) -> int:
    """Makes the archive, restores it, prints gains and balance; 0 when every file had an outcome it should have."""
    from flows.cli.local import run_job
    from flows.jobs import DEMO_SEED, Job
    from flows.restoration import file_outcomes
    from infra.ledger import Ledger
    from infra.storage import Storage
    from tasks.archive import gains, make

    began = time.monotonic()
    archive, workspace = folder / "archive", folder / "workspace"
    expected = make(folder, DEMO_SEED)
    terminal.err.print(f"made {len(expected)} files in {archive}; restoring them with the compact recipe …")
    summary = run_job(Job(source=str(archive.absolute()), workspace=str(workspace.absolute())))
    outcomes = file_outcomes(Ledger.open(Storage(workspace), create=False))
    surprises = [e for e in expected if outcomes.get(e.path) not in e.outcomes]
    table = gains(expected, workspace / "restored")
    if as_json:
        terminal.print_json(
            {
                **summary.model_dump(mode="json"),
                "gains": [gain.as_dict() for gain in table],
                "surprises": [s.path for s in surprises],
            }
        )
    else:
        _print_demo(summary, table, expected, outcomes, workspace, time.monotonic() - began)
    for surprise in surprises:
        wanted = " or ".join(sorted(surprise.outcomes))
        terminal.print_error(f"{surprise.path}: expected {wanted}, got {outcomes.get(surprise.path, 'nothing')}")
    return 1 if surprises else 0


def _print_demo(
    summary: Summary,
    table: Sequence[Gain],
    expected: Sequence[Expected],
    outcomes: dict[str, str],
    workspace: Path,
    seconds: float,
) -> None:
    shown = Table(title="true gains against the known originals", title_justify="left", show_edge=False)
    shown.add_column("file", overflow="fold")
    for title in ("face PSNR", "gain", "face SSIM", "gain", "whole PSNR", "gain"):
        shown.add_column(title, justify="right")
    for gain in table:
        shown.add_row(gain.path, *gain.cells())
    terminal.out.print(shown)
    tell.print_stages(summary.stages)
    tell.print_summary(summary, str(workspace / "report" / "index.html"))
    as_wanted = sum(outcomes.get(e.path) in e.outcomes for e in expected)
    terminal.out.print(
        f"{as_wanted} of {len(expected)} files had the outcome that the demo expects; {seconds:.0f} s in all"
    )
    terminal.out.print(f"restored pictures: {workspace / 'restored'}", soft_wrap=True)
