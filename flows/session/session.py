"""What every kind of run settles before it begins: device, weights, the pool of workers, and how a run stops."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal

from infra import extras
from infra.settings import Settings
from infra.weights import open_store
from infra.workers import has_gpu
from tasks.recipes import Recipe

if TYPE_CHECKING:
    from infra.workers import ClusterFacts, ClusterSettings, ExecutorSettings, PoolSize

SMALL_SHARD = 64
"""Shards of small archives hold about this many images, so that several are in flight and progress is seen."""
SHARDS_OF_SMALL_ARCHIVE = 8


SOFTWARE = f"mpsr-batch {version('mpsr-batch')}"
GIGABYTE = 1e9
CANCEL_SECONDS = 3.0
"""How long an interrupted run waits for calls in flight; what they leave half-way is done again."""
Device = Literal["cpu", "cuda"]


class RunStopped(RuntimeError):
    """The run could not finish (exit code 3): budget spent, disk full, lease lost. What is done is kept."""


@contextmanager
def planned_pool(settings: Settings, device: Device) -> Iterator[tuple[ClusterFacts, PoolSize]]:
    """Starts or joins the Ray cluster for as long as it is needed; says what it has, and how many workers fit there."""
    from infra.workers import PoolWants, plan_pool, start_or_join

    with start_or_join(cluster_settings(settings)) as cluster:
        facts = cluster.facts()
        yield facts, plan_pool(facts, PoolWants(device=device, workers=settings.workers, threads=settings.threads))


def executor_settings(settings: Settings) -> ExecutorSettings:
    """How often a call is tried, how long it may take, and how soon it gives way when somebody stops the run."""
    from infra.workers import ExecutorSettings

    return ExecutorSettings(retries=settings.retries, call_timeout=settings.call_timeout, cancel_grace=CANCEL_SECONDS)


def cpu_pools(settings: Settings, threads: int) -> dict[str, PoolSize]:
    from infra.workers import PoolSize

    return {name: PoolSize(workers, threads=threads) for name, workers in settings.pools.items()}


def cluster_settings(settings: Settings) -> ClusterSettings:
    """The part of the settings that says where Ray runs."""
    from infra.workers import ClusterSettings

    return ClusterSettings(address=settings.ray_address, dashboard=settings.ray_dashboard)


def present_weights(recipe: Recipe, settings: Settings) -> dict[str, str]:
    """name → sha256 of every weights file that the recipe needs, and of the optional ones that are here.

    Raises WeightsMissing naming the file, its size and the command that gets it, and ExtraMissing for a package.
    """
    if absent := extras.missing(extra for stage in recipe.stages for extra in stage.extras):
        raise extras.ExtraMissing(f"recipe {recipe.name} needs {extras.how_to_get(absent[0])}")
    store = open_store(settings.weights_dir, settings.weights_table)
    needed = {name: store.sha256(name) for stage in recipe.stages for name in stage.weights}
    optional = {name for stage in recipe.stages for name in stage.optional_weights}
    return needed | {
        name: store.sha256(name) for name in sorted(optional) if name in store.table and store.status(name).present
    }


def resolve_device(settings: Settings) -> Device:
    """Where networks compute. It is part of every key, so it is settled before anything is planned."""
    if settings.device != "auto":
        return settings.device
    if settings.ray_address is None:
        return "cuda" if has_gpu() else "cpu"
    from infra.workers import start_or_join

    with start_or_join(cluster_settings(settings)) as cluster:
        return "cuda" if cluster.facts().gpus else "cpu"


def prefix_bits(present: int, settings: Settings) -> int:
    """How many bits of an image's id name its shard, in an archive of so many files."""
    size = min(settings.shard_size, max(SMALL_SHARD, present // SHARDS_OF_SMALL_ARCHIVE))
    return max(0, (max(present, 1) - 1) // size).bit_length()


def prefix_of(image_id: str, bits: int) -> int:
    """The first bits of an id, which name its shard."""
    return int(image_id[:8], 16) >> (32 - bits)
