"""`mpsr evaluate`: restored pictures measured against their inputs, and against the truth where it is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.options import names_in, plain_settings
from flows.cli.words import terminal

if TYPE_CHECKING:
    from flows.jobs.evaluation import EvaluationJob
    from infra.weights.store import WeightsStore


def evaluate(
    restored: Annotated[
        str,
        typer.Argument(help="a workspace, or a folder or URL of restored pictures; only read", show_default=False),
    ],
    against: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="the inputs that were restored; only read; a data set names its own"),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(metavar="NAME", help="judge as this data set of data_manifests/ is judged")
    ] = None,
    truth: Annotated[str | None, typer.Option(metavar="DIR", help="the true pictures, where they are known")] = None,
    metrics: Annotated[
        str | None, typer.Option(help="names, joined by commas; none = all that can be computed here")
    ] = None,
    aligned: Annotated[
        bool | None,
        typer.Option(
            "--aligned/--no-aligned",
            help="the pictures are face crops; default: where the data set, the recipe or their size (512 px) says so",
        ),
    ] = None,
    sample: Annotated[
        float | None, typer.Option(metavar="SHARE", help="measure this share of the pictures, always the same ones")
    ] = None,
    landmarks: Annotated[
        str | None, typer.Option(metavar="FILE", help="the data set's table, where it does not lie with the inputs")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="for the numbers; default: `evaluation` in a workspace, else beside RESTORED"),
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="a setting of the machine, as NAME=VALUE")] = None,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Measure restored pictures: quality, identity, the challenge's Score, and what is missing for it.

    Running it again measures only what it lacks. Exit code 1 where pictures could not be measured.
    """
    from flows.cli.words.evaluation import print_evaluation
    from flows.jobs.evaluation import evaluation_job
    from tasks.measuring.files import unmeasured

    more = {"truth": truth, "landmarks": landmarks, "output": output, "aligned": aligned, "sample": sample}
    job = evaluation_job(restored, against, dataset, metrics=names_in(metrics), settings=plain_settings(set_), **more)
    facts = _run(job)
    terminal.print_json(facts) if json_ else print_evaluation(facts, _store(job))
    if unmeasured(facts):
        raise typer.Exit(1)


def _store(job: EvaluationJob) -> WeightsStore:
    from infra.settings import load_settings
    from infra.weights.store import open_store

    settings = load_settings(**job.settings)
    return open_store(settings.weights_dir, settings.weights_table)


def _run(job: EvaluationJob) -> dict[str, Any]:
    """Runs the flow in this process, with progress on stderr; returns what evaluation.json says."""
    from flows.cli.local import at_the_terminal, quiet_prefect
    from flows.session.progress import Progress

    quiet_prefect()
    from flows.evaluate_dataset import evaluate_dataset
    from flows.evaluation.run import checked

    checked(job)  # what cannot be is said at once, before any server starts
    with at_the_terminal(Progress()):
        facts: dict[str, Any] = evaluate_dataset(**{**job.model_dump(), "metrics": list(job.metrics)})
        return facts
