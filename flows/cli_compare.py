"""`mpsr compare`: two recipes, two runs or two folders, face by face."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.options import names_in, plain_settings
from flows.cli.words import terminal
from flows.session.progress import Progress


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
    set_: Annotated[list[str] | None, typer.Option("--set", help="a setting, as NAME=VALUE")] = None,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Compare two restorations of the same pictures: gains with intervals, identity, time and cost, worst regressions.

    Nothing is written into A, B or SOURCE. A workspace is measured anew into the comparison's folder; name its
    `evaluation` folder to take the numbers that are there.

    Other weights or settings of stages are another recipe: name them in a .toml file, or restore with `mpsr run
    --set …` into two workspaces and compare those.
    """
    from flows.cli.local import at_the_terminal, quiet_prefect
    from flows.cli.words.comparison import print_comparison
    from flows.jobs.comparison import ComparisonJob, two_sides

    job = ComparisonJob(
        a=a,
        b=b,
        against=against,
        truth=truth,
        output=output,
        metrics=names_in(metrics),
        aligned=aligned,
        confidence=confidence,
        price_per_gpu_hour=price_per_gpu_hour,
        settings=plain_settings(set_),
    )
    two_sides(job)  # what cannot be is said at once, before any server starts
    quiet_prefect()
    from flows.compare_recipes import compare_recipes

    with at_the_terminal(Steps()):
        facts = compare_recipes(**job.model_dump(mode="json"))
    terminal.print_json(facts) if json_ else print_comparison(facts)


class Steps(Progress):
    """Counters of several runs, one after the other: each begins at nothing."""

    def planned(self, images: int) -> None:
        """The next run begins."""
        self.outcomes.clear()
        self.stages.clear()
        super().planned(images)
