"""`mpsr benchmark`: what recipes gain on faces that were degraded in known ways."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.options import names_in, plain_settings
from flows.cli.words import terminal


def benchmark(
    faces: Annotated[
        str | None,
        typer.Argument(help="folder of clean aligned faces; none = a portrait from an installed package"),
    ] = None,
    recipe: Annotated[list[str] | None, typer.Option("--recipe", "-r", help="a recipe; may be given again")] = None,
    output: Annotated[str, typer.Option(help="folder for archive, workspaces and answer")] = "benchmark",
    limit: Annotated[int | None, typer.Option(help="use only so many faces, the first by name", min=1)] = None,
    degradation: Annotated[
        list[str] | None, typer.Option(help="only this part of the grid; may be given again")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(help="names, joined by commas; none = all that can be computed")
    ] = None,
    price_per_gpu_hour: Annotated[float | None, typer.Option(help="adds what each recipe cost", min=0)] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="a setting, as NAME=VALUE")] = None,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Restore clean faces, as they are and degraded in seven known ways, with every recipe; measure against the truth.

    Without a folder it takes one portrait that comes with scikit-image, so that anyone can repeat the numbers.
    """
    from flows.cli.local import at_the_terminal, quiet_prefect
    from flows.cli.words.comparison import print_benchmark
    from flows.cli_compare import Steps

    quiet_prefect()
    from flows.benchmark_recipes import BenchmarkJob, benchmark_recipes

    job = BenchmarkJob(
        output=output,
        faces=faces,
        recipes=tuple(recipe or ["compact"]),
        limit=limit,
        **({"degradations": tuple(degradation)} if degradation else {}),
        metrics=names_in(metrics),
        price_per_gpu_hour=price_per_gpu_hour,
        settings=plain_settings(set_),
    )
    job.runs(), job.cells()  # what cannot be is said at once, before any server starts
    with at_the_terminal(Steps()):
        facts = benchmark_recipes(**job.model_dump(mode="json"))
    terminal.print_json(facts) if json_ else print_benchmark(facts)
