"""What every kind of run stands on: what is settled before it begins, the workspace it holds, the pool of workers."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal

from flows.jobs import Job
from infra import extras
from infra.ledger import DAMAGED, Event, FileRow, Lease, Ledger, buckets_for, set_aside_damaged
from infra.problems import RESUME, ForPeople
from infra.settings import Settings, SettingsError
from infra.storage import Storage
from infra.weights import open_store
from infra.workers import has_gpu
from tasks.recipes import Recipe
from tasks.worker import WorkerConfig

if TYPE_CHECKING:
    from infra.workers import ClusterFacts, ClusterSettings, ExecutorSettings, PoolSize

SMALL_SHARD = 64
"""Shards of small archives hold about this many images, so that several are in flight and progress is seen."""
SHARDS_OF_SMALL_ARCHIVE = 8


_log = logging.getLogger("mpsr.ledger")
SOFTWARE = f"mpsr-batch {version('mpsr-batch')}"
GIGABYTE = 1e9
CANCEL_SECONDS = 3.0
"""How long an interrupted run waits for calls in flight; what they leave half-way is done again."""
Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Prepared:
    """What a restoration stands on, settled before anything is opened, so that what cannot be is said at once."""

    job: Job
    settings: Settings
    recipe: Recipe
    weights: Mapping[str, str]
    """name → sha256 of the files that are here."""
    device: Device
    digests: Mapping[str, str]
    """Stage → digest of all that its results depend on beside the picture; `commit`: of the recipe as a whole."""

    @property
    def numerics(self) -> str:
        """Device and dtype."""
        return self.recipe.numerics(self.device)

    def worker_config(self, workspace: str, threads: int) -> WorkerConfig:
        """What a worker process needs to know to work for this workspace."""
        return WorkerConfig(
            source=self.job.source,
            workspace=workspace,
            recipe=self.recipe.to_dict(),
            digests=dict(self.digests),
            weights=dict(self.weights),
            weights_dir=self.settings.weights_dir,
            weights_table=self.settings.weights_table,
            device=self.device,
            dtype=self.recipe.file.dtype,
            threads=threads,
            max_pixels=self.settings.max_pixels,
            load_at_once=not self.settings.placement,
            software=SOFTWARE,
            picked=bool(self.job.files),
        )


def prepare(job: Job) -> Prepared:
    """Raises JobError, RecipeError, SettingsError, WeightsError, ExtraMissing where the job cannot be done here."""
    settings, recipe = job.load_settings(), job.load_recipe()
    _check_engine(settings)
    weights, device = present_weights(recipe, settings), resolve_device(settings)
    _check_placement(recipe, settings, device)
    return Prepared(job, settings, recipe, weights, device, recipe.digests(weights, recipe.numerics(device)))


@dataclass(frozen=True)
class Session:
    """A workspace, or a folder of numbers, with the one that may write to it: its lease and its ledger."""

    id: str
    started: float
    storage: Storage
    lease: Lease
    ledger: Ledger
    set_aside: tuple[str, ...] = ()
    """Files of the ledger that were damaged."""

    def record(self, bucket: int, stage: str, events: Sequence[Event]) -> None:
        """Appends a stage's events of one bucket as one segment, provided that the lease still holds."""
        if events:
            self.lease.check()
            self.ledger.append_events(events, run_id=self.id, token=self.lease.token, stage=stage, bucket=bucket)

    def record_files(self, rows: Sequence[FileRow]) -> None:
        """Appends rows of the inventory as one segment, provided that the lease still holds."""
        self.lease.check()
        self.ledger.append_inventory(rows, run_id=self.id)


@contextmanager
def open_session(storage: Storage, count: Callable[[], int]) -> Iterator[Session]:
    """Takes the lease and opens the ledger, making one for as many pictures as `count` says; gives the lease back.

    Damaged files of the ledger are set aside and named in the log.

    Raises WorkspaceBusy where another holds it.
    """
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.urandom(3).hex()}"
    with Lease.acquire(storage, owner=run_id) as lease:
        damaged = tuple(set_aside_damaged(storage))
        for path in damaged:
            _log.warning("%s was damaged and is set aside (in %s/); what it held is made again", path, DAMAGED)
        ledger = Ledger.open(storage, buckets=1 if storage.exists("_format.json") else buckets_for(count()))
        ledger.numbers(0)  # a later holder's are higher than ours, however late we write
        yield Session(run_id, time.time(), storage, lease, ledger, damaged)


class RunStopped(ForPeople):
    """The run could not finish (exit code 3): budget spent, disk full, lease lost. What is done is kept."""

    hint = RESUME


@contextmanager
def planned_pool(settings: Settings, device: Device, items: int) -> Iterator[tuple[ClusterFacts, PoolSize]]:
    """Starts or joins the Ray cluster for as long as it is needed; says what it has, and how many workers fit there.

    Under the local engine there is no cluster, and no more workers in this process than `items` to be worked on.
    """
    from infra.workers import ClusterFacts, PoolWants, plan_pool, start_or_join

    if settings.engine == "local":
        yield ClusterFacts(()), _pool_inside(settings, device, items)
        return
    with start_or_join(cluster_settings(settings)) as cluster:
        facts = cluster.facts()
        yield facts, plan_pool(facts, PoolWants(device=device, workers=settings.workers, threads=settings.threads))


def _pool_inside(settings: Settings, device: Device, items: int) -> PoolSize:
    """Workers of one thread each, as on a Ray without GPUs: other numbers of threads round differently."""
    from infra.workers import PoolSize

    cores, threads = os.cpu_count() or 1, settings.threads or 1
    if device == "cuda":
        return PoolSize(settings.workers or 1, 1.0, threads=settings.threads or cores, inside=True)
    return PoolSize(settings.workers or max(1, min(cores // threads, items)), threads=threads, inside=True)


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


def _check_engine(settings: Settings) -> None:
    """Refuses what one worker in this process cannot give. Raises SettingsError."""
    if settings.engine != "local":
        return
    for name in ("ray_address", "pools"):
        if value := getattr(settings, name):
            raise SettingsError(
                f"{name} = {value!r} needs worker processes, and engine = 'local' has none; use engine = 'ray'"
            )


def _check_placement(recipe: Recipe, settings: Settings, device: Device) -> None:
    """Refuses pools that are not there, and networks sent from the GPU to a pool without one. Raises SettingsError."""
    for stage_id, pool in settings.placement.items():
        if stage_id not in {stage.id for stage in recipe.stages} or pool not in settings.pools:
            raise SettingsError(f"placement {stage_id} = {pool!r}: expected a stage of the recipe and one of `pools`")
        if device == "cuda" and recipe.stage(stage_id).cls.on_device:
            raise SettingsError(f"placement {stage_id} = {pool!r}: that stage computes on the GPU; pools are for CPUs")
