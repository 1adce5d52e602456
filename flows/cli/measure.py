"""`mpsr evaluate`, `compare`, `benchmark`: restored pictures measured, held side by side, recipes tried."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.options import EngineName, asked
from flows.cli.words import terminal
from flows.session import Progress


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
    settings: Annotated[list[str] | None, typer.Option("--set", help="a setting of the machine, as NAME=VALUE")] = None,
    engine: EngineName = None,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Measure restored pictures: quality, identity, the challenge's Score, and what is missing for it.

    Running it again measures only what it lacks. Exit code 1 where pictures could not be measured.
    """
    options = locals()
    from flows.cli.local import evaluate_job
    from flows.cli.words.evaluation import print_evaluation
    from flows.jobs import EvaluationJob, evaluation_job

    fields = asked(EvaluationJob, options)
    fields["settings"] |= {"engine": engine} if engine else {}
    job = evaluation_job(**fields)
    from flows.evaluation import prepare

    prepared = prepare(job)  # what cannot be is said at once, before any server starts
    told = evaluate_job(job)
    terminal.print_json(told.model_dump(mode="json")) if json_ else print_evaluation(told, prepared.weights)
    if told.unmeasured:
        raise typer.Exit(1)


def compare(
    a: Annotated[
        str,
        typer.Argument(
            help="what there is: a workspace, a folder of restored pictures, an evaluation, recipe:NAME, a recipe's "
            ".toml file, or SOURCE itself",
            show_default=False,
        ),
    ],
    b: Annotated[str, typer.Argument(help="what is held against it: the same kinds of thing", show_default=False)],
    against: Annotated[
        str, typer.Option("--against", metavar="SOURCE", help="the pictures that both were restored from")
    ],
    truth: Annotated[str | None, typer.Option(help="the true pictures, where they are known")] = None,
    output: Annotated[str, typer.Option(help="folder for the answer, and for what recipes restore")] = "comparison",
    metrics: Annotated[
        str | None, typer.Option(help="names, joined by commas; none = all that can be computed")
    ] = None,
    aligned: Annotated[bool, typer.Option("--aligned", help="the pictures are face crops")] = False,
    confidence: Annotated[float, typer.Option(help="of the intervals", min=0.6, max=0.999)] = 0.95,
    price_per_gpu_hour: Annotated[float | None, typer.Option(help="adds what each side cost", min=0)] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="a setting, as NAME=VALUE")] = None,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Compare two restorations of the same pictures: gains with intervals, identity, time and cost, worst regressions.

    Nothing is written into A, B or SOURCE. A workspace is measured anew into the comparison's folder; name its
    `evaluation` folder to take the numbers that are there.

    Other weights or settings of stages are another recipe: name them in a .toml file, or restore with `mpsr run
    --set …` into two workspaces and compare those.
    """
    options = locals()
    from flows.cli.local import quiet_prefect, under_prefect
    from flows.cli.words.comparison import print_comparison
    from flows.jobs import ComparisonJob, two_sides

    job = ComparisonJob.of(**asked(ComparisonJob, options))
    two_sides(job)  # what cannot be is said at once, before any server starts
    quiet_prefect()
    from flows.compare_recipes import compare_recipes

    with under_prefect(Steps()):
        facts = compare_recipes(**job.model_dump(mode="json"))
    terminal.print_json(facts.model_dump(mode="json")) if json_ else print_comparison(facts)


def benchmark(
    faces: Annotated[
        str | None,
        typer.Argument(help="folder of clean aligned faces; none = a portrait from an installed package"),
    ] = None,
    recipes: Annotated[list[str] | None, typer.Option("--recipe", "-r", help="a recipe; may be given again")] = None,
    output: Annotated[str, typer.Option(help="folder for archive, workspaces and answer")] = "benchmark",
    limit: Annotated[int | None, typer.Option(help="use only so many faces, the first by name", min=1)] = None,
    degradations: Annotated[
        list[str] | None, typer.Option("--degradation", help="only this part of the grid; may be given again")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(help="names, joined by commas; none = all that can be computed")
    ] = None,
    price_per_gpu_hour: Annotated[float | None, typer.Option(help="adds what each recipe cost", min=0)] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="a setting, as NAME=VALUE")] = None,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Restore clean faces, as they are and degraded in seven known ways, with every recipe; measure against the truth.

    Without a folder it takes one portrait that comes with scikit-image, so that anyone can repeat the numbers.
    """
    options = locals()
    from flows.cli.local import quiet_prefect, under_prefect
    from flows.cli.words.comparison import print_benchmark
    from flows.jobs import BenchmarkJob

    job = BenchmarkJob.of(**asked(BenchmarkJob, options))
    quiet_prefect()
    from flows.benchmark_recipes import benchmark_recipes

    job.runs(), job.cells()  # what cannot be is said at once, before any server starts
    with under_prefect(Steps()):
        facts = benchmark_recipes(**job.model_dump(mode="json"))
    terminal.print_json(facts.model_dump(mode="json")) if json_ else print_benchmark(facts)


class Steps(Progress):
    """Counters of several runs, one after the other: each begins at nothing."""

    def planned(self, images: int) -> None:
        """The next run begins."""
        self.outcomes.clear()
        self.stages.clear()
        super().planned(images)
