"""What a comparison is asked to do, and what its sides are: runs, folders, evaluations, recipes, the originals."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from flows.jobs.asked import Asked, Names
from flows.jobs.data_set import JobError, insist_on_folder
from flows.jobs.evaluation import EvaluationJob, evaluation_job, is_workspace
from flows.jobs.restoration import Job, job_for, recipe_label
from infra.storage import Storage
from tasks.measuring import FACTS, METRICS, Evaluation

Kind = Literal["recipe", "workspace", "evaluation", "originals", "folder"]
RECIPE = "recipe:"


class ComparisonJob(Asked):
    """One comparison: which two sides, on which pictures, and where the answer goes."""

    a: str = Field(description="what there is: a side, see `side_of`")
    b: str = Field(description="what is held against it: a side, see `side_of`")
    against: str = Field(description="folder or URL of the pictures that both were restored from; it is only read")
    truth: str | None = Field(default=None, description="folder or URL of the true pictures, where they are known")
    output: str = Field(default="comparison", description="folder or URL for the answer, and for what recipes restore")
    metrics: Names = Field(default=(), description="names of metrics; none = all that can be computed")
    aligned: bool = Field(default=False, description="the pictures are aligned faces: nothing is detected")
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="confidence of the intervals")
    price_per_gpu_hour: float | None = Field(default=None, ge=0, description="what an hour of a worker costs")


@dataclass(frozen=True)
class Side:
    """One side: what it is, where its files are, and for a recipe the run that makes them."""

    kind: Kind
    name: str
    url: str
    run: Job | None = None


def two_sides(job: ComparisonJob) -> tuple[Side, Side]:
    """Both sides, before anything is done. Raises JobError where they are one and the same, where pictures or a metric
    do not exist, and where the comparison's folder would lie in the archive."""
    insist_on_known(job.metrics)
    insist_on_folder(job.against, "pictures")
    if job.truth is not None:
        insist_on_folder(job.truth, "true pictures")
    job_for(source=job.against, workspace=job.output)  # refuses places that overlap
    a, b = side_of(job.a, job), side_of(job.b, job)
    if a.url == b.url:
        raise JobError(
            f"expected two different sides, got {Storage(a.url).shown_url} twice; two recipes need two names"
        )
    return a, b


def insist_on_known(metrics: Sequence[str]) -> None:
    """Raises JobError for a metric that does not exist, before hours are spent on restoring what it should measure."""
    if unknown := [name for name in metrics if name not in METRICS]:
        raise JobError(f"expected metrics of {', '.join(METRICS)}; got {', '.join(unknown)}")


def side_of(text: str, job: ComparisonJob) -> Side:
    """Reads one side: `recipe:NAME` or a recipe's .toml file, an evaluation folder, a workspace, the pictures
    themselves, or a folder of restored pictures. Raises JobError or RecipeError."""
    if text.startswith(RECIPE) or text.endswith(".toml"):
        return _recipe_side(text.removeprefix(RECIPE), job)
    storage = Storage(text)
    name = storage.url.rstrip("/").rpartition("/")[2]
    if storage.url == Storage(job.against).url:
        return Side("originals", "originals", storage.url)
    if storage.exists(FACTS):
        return Side("evaluation", name, storage.url)
    if is_workspace(text):
        return Side("workspace", name, storage.url)
    if not storage.exists(""):
        raise JobError(
            f"expected a workspace, a folder of restored pictures, an evaluation, {RECIPE}NAME or a recipe's .toml "
            f"file; there is nothing at {storage.shown_url}"
        )
    return Side("folder", name, storage.url)


def evaluation_of(side: Side, job: ComparisonJob, like: Evaluation | None = None) -> EvaluationJob:
    """How a side is measured: with the faces that the other side, `like`, was measured on.

    Nothing is written into what is compared: only a recipe's workspace lies in the comparison's folder, and holds its
    evaluation.
    """
    return evaluation_job(
        restored=side.url,
        against=job.against,
        truth=job.truth,
        output=None if side.kind == "recipe" else _place_of(side, job),
        metrics=job.metrics,
        aligned=like.facts.aligned if like else job.aligned or None,
        detector=like.facts.detector if like else None,
        settings=job.settings,
    )


def _place_of(side: Side, job: ComparisonJob) -> str:
    """Two folders may have one name, so the address is part of it."""
    address = hashlib.sha256(side.url.encode()).hexdigest()[:8]
    return f"{job.output.rstrip('/')}/evaluations/{side.name}-{address}"


def _recipe_side(recipe: str, job: ComparisonJob) -> Side:
    name = recipe_label(recipe)
    run = job_for(
        source=job.against,
        workspace=f"{job.output.rstrip('/')}/{name}",
        recipe=recipe,
        aligned=job.aligned,
        settings=job.settings,
    )
    run.load_recipe()
    return Side("recipe", name, run.workspace, run)
