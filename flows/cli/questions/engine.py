"""Where a job of the command line runs: in this process while it is small, else on Ray, told to Prefect."""

from __future__ import annotations

from itertools import islice
from typing import Literal, TypeVar

from flows.jobs import Asked, EvaluationJob, Job, insist_on_folder, reachable, restored_tree
from flows.session import last_run_facts, resolve_device
from infra.settings import Settings
from infra.storage import Storage
from tasks.recipes import Recipe, gpu_memory

SMALL_FILES = 64
"""Files up to which this process is done before servers and workers would stand."""
SMALL_GB = 4.0
"""Memory up to which one process on a CPU may hold a recipe's networks at work."""
AnyJob = TypeVar("AnyJob", bound=Asked)


def placed(job: Job) -> Job:
    """The job with the engine among its settings.

    A run that did not finish goes on on Ray, where a picture that kills its worker is found.
    """
    settings, recipe = job.load_settings(), job.load_recipe()
    insist_on_folder(job.source, "pictures")
    if settings.engine != "auto":
        return job
    if _wants_cluster(settings) or not _fits(recipe, settings) or _was_cut_short(job):
        return _on(job, "ray")
    return _on(job, "local" if job.files or _is_small(job.source) else "ray")


def evaluation_placed(job: EvaluationJob) -> EvaluationJob:
    """The job with the engine among its settings."""
    settings = job.load_settings()
    if settings.engine != "auto":
        return job
    return _on(job, "local" if not _wants_cluster(settings) and _is_small(restored_tree(job.restored)) else "ray")


def _on(job: AnyJob, engine: Literal["local", "ray"]) -> AnyJob:
    return job.model_copy(update={"settings": {**job.settings, "engine": engine}})


def _wants_cluster(settings: Settings) -> bool:
    return bool(settings.ray_address or settings.pools)


def _is_small(url: str) -> bool:
    """Whether a folder holds few files; looks at no more of them than it takes."""
    return len(list(islice(Storage(url).walk(), SMALL_FILES + 1))) <= SMALL_FILES


def _fits(recipe: Recipe, settings: Settings) -> bool:
    needed = gpu_memory(recipe).total
    return resolve_device(settings) == "cuda" or (needed is not None and needed <= SMALL_GB)


def _was_cut_short(job: Job) -> bool:
    workspace = Storage(job.workspace)
    with reachable(workspace):
        return workspace.exists("runs") and not last_run_facts(workspace).finished
