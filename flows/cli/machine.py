"""`mpsr clean`, `repair`, `train`, `doctor`, `serve`: what concerns this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from flows.cli.options import Json, Workspace, plain_settings
from flows.cli.words import restoration as tell
from flows.cli.words import terminal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic import JsonValue

    from tasks.training import Trained


def clean(
    workspace: Workspace,
    older_than_days: Annotated[float, typer.Option(help="intermediates older than this go", min=0)] = 7.0,
    keep_snapshots: Annotated[int, typer.Option(help="snapshots of the ledger to keep", min=1)] = 2,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be freed")] = False,
    json_: Json = False,
) -> None:
    """Drop old intermediates and snapshots by the retention policy, and say what that frees."""
    from flows.cli.questions.status import clean_workspace

    freed = clean_workspace(workspace, older_than_days, keep_snapshots, dry_run)
    terminal.print_json(freed) if json_ else tell.print_counts("would free" if dry_run else "freed", freed)


def repair(workspace: Workspace, json_: Json = False) -> None:
    """Set aside what `verify` finds, and deliver again what there is another copy of; `run` makes the rest again."""
    from flows.cli.questions.status import repair_workspace

    told = repair_workspace(workspace)
    terminal.print_json(told.model_dump(mode="json")) if json_ else tell.print_repair(told)


def train(
    name: Annotated[str, typer.Argument(help="a network of the compact recipe, or niqe", show_default=False)],
    data: Annotated[
        list[Path], typer.Option(help="folder of aligned faces, 512 px; may be given again", show_default=False)
    ],
    output: Annotated[Path, typer.Option(help="folder for checkpoints and weights")] = Path("training"),
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="a setting, as NAME=VALUE: steps, batch, learning_rate, seed, start, device, yunet …"
        ),
    ] = None,
) -> None:
    """Train one of the small networks on any folder of aligned faces; it resumes where it was stopped."""

    tell.print_counts(f"trained {name}", train_with_bar(name, data, output, plain_settings(set_)).told())


def doctor(json_: Json = False) -> None:
    """What this machine can do (cores, memory, disk, GPU, weights, ports), and what to do about what it cannot."""
    from flows.cli.questions.doctor import examine

    examination = examine()
    terminal.print_json(examination.model_dump()) if json_ else tell.print_checks(examination.checks)
    if any(check.level == "bad" for check in examination.checks):
        raise typer.Exit(1)


def serve(
    port: Annotated[int, typer.Option(help="of the dashboard, on loopback", min=1024, max=65535)] = 4200,
) -> None:
    """Bring up Prefect's server, the deployments and a worker on this machine, until Ctrl-C."""
    from flows.cli.server import serve as serve_until_interrupted

    serve_until_interrupted(port)


def train_with_bar(name: str, data: Sequence[Path], output: Path, settings: Mapping[str, JsonValue]) -> Trained:
    """`train_one` with a bar on the terminal."""
    from tasks.training import train_one

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("loss {task.fields[loss]:.4f}"), console=terminal.err) as bar:
        row = bar.add_task(name, total=None, loss=0.0)
        return train_one(
            name,
            data,
            output,
            settings,
            lambda step, total, loss: bar.update(row, completed=step, total=total, loss=loss),
        )
