"""Where a job of the command line runs: in this process while it is small, else on Ray, told to Prefect."""

from __future__ import annotations

from itertools import islice
from typing import Literal, TypeVar

from flows.jobs import Asked, Job
from flows.session import last_run_facts, resolve_device
from infra.settings import Settings
from infra.storage import Storage
from tasks.recipes import Recipe, gpu_memory

SMALL_FILES = 64
"""Files up to which this process is done before servers and workers would stand."""
SMALL_GB = 4.0
"""Memory up to which one process on a CPU may hold a recipe's networks at work."""
Engine = Literal["auto", "local", "ray"]
AnyJob = TypeVar("AnyJob", bound=Asked)


def on_engine(job: AnyJob, engine: Engine) -> AnyJob:
    """The job with the engine among its settings."""
    return job.model_copy(update={"settings": {**job.settings, "engine": engine}})


def engine_of(job: Job, settings: Settings, recipe: Recipe) -> Engine:
    """`local` or `ray`. A run that did not finish goes on on Ray, where a picture that kills its worker is found."""
    if settings.engine != "auto":
        return settings.engine
    if settings.ray_address or settings.pools or not _fits(recipe, settings) or _was_cut_short(job):
        return "ray"
    return "local" if is_small(Storage(job.source)) else "ray"


def is_small(source: Storage) -> bool:
    """Whether a folder holds few files; looks at no more of them than it takes."""
    return len(list(islice(source.walk(), SMALL_FILES + 1))) <= SMALL_FILES


def _fits(recipe: Recipe, settings: Settings) -> bool:
    needed = gpu_memory(recipe).total
    return resolve_device(settings) == "cuda" or (needed is not None and needed <= SMALL_GB)


def _was_cut_short(job: Job) -> bool:
    workspace = Storage(job.workspace)
    return workspace.exists("_format.json") and not last_run_facts(workspace).finished
