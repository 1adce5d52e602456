"""One run: everything that the steps of a flow share, opened once and closed in the right order.

A run holds the workspace's lease, its ledger, the recipe with its digests, and (while there is work) the workers.
The steps themselves are in flows.restore_dataset.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from prefect.runtime import flow_run

from flows.jobs import Job, JobError
from flows.restoration.course import Course
from flows.restoration.shard import Row, Shard
from flows.session import (
    GIGABYTE,
    SOFTWARE,
    Device,
    Patience,
    Progress,
    RunStopped,
    cpu_pools,
    executor_settings,
    planned_pool,
    present_weights,
    resolve_device,
)
from infra.ledger import Lease, Ledger, buckets_for
from infra.settings import Settings, SettingsError
from infra.storage import Storage
from tasks.recipes import COMMIT, Recipe, stage_key
from tasks.worker import RESTORED, WorkerConfig

if TYPE_CHECKING:
    from infra.workers import Executor, PoolSize


class Run:
    """See the module. Build one with `open_run`."""

    def __init__(self, job: Job, settings: Settings, recipe: Recipe, progress: Progress) -> None:
        self.job, self.settings, self.recipe, self.progress = job, settings, recipe, progress
        self.id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.urandom(3).hex()}"
        self.started = time.time()
        self.source = Storage(job.source, apart=Storage(job.workspace))
        self.workspace = Storage(job.workspace)
        self.weights = present_weights(recipe, settings)
        self.device = resolve_device(settings)
        _check_placement(recipe, settings, self.device)
        self.digests = recipe.digests(self.weights, recipe.numerics(self.device))
        self.ledger: Ledger
        self.lease: Lease
        self.executor: Executor
        self.pool: PoolSize
        self.patience = Patience()
        self.course = Course(self.progress.began)
        self.quarantined = self.committed = 0
        self.progress_artifact: Any = None
        self.factory = "tasks.worker.worker:build"
        self.startup_seconds: float | None = None  # until workers stood; None where none were needed
        self._sequence = 0
        self.kept_bytes = 0
        self._lock = threading.Lock()

    def abandon(self) -> None:
        """Ends what is in flight."""
        self.patience.end()
        self.executor.cancel()

    def record(self, shard: Shard, stage_id: str, rows: Sequence[Row]) -> None:
        """Appends a stage's rows of one shard to the ledger as one segment, provided that the lease still holds."""
        if not rows:
            return
        self.lease.check()
        complete = [self._complete(row, stage_id) for row in rows]
        self.ledger.append_events(complete, run_id=self.id, token=self.lease.token, stage=stage_id, bucket=shard.bucket)

    def count(self, verdicts: Iterable[Row]) -> None:
        """Adds verdicts to the run's counts, and stops the run loudly when too many were quarantined."""
        outcomes = [row["detail"]["outcome"] for row in verdicts]
        with self._lock:
            self.committed += len(outcomes)
            self.quarantined += outcomes.count("quarantined")
        self.progress.committed(outcomes)
        budget, enough = self.settings.quarantine_budget, self.settings.quarantine_budget_from
        if not self.job.retry and self.committed >= enough and self.quarantined > budget * self.committed:
            raise RunStopped(
                f"{self.quarantined} of {self.committed} images were quarantined, over the budget of {budget:.0%}; "
                "something is wrong with the archive or the set-up. Look at `mpsr status --reasons`, then raise "
                "quarantine_budget or mend the cause; what is done is kept"
            )

    def keep_or_drop(self, shard: Shard) -> None:
        """Keeps a finished shard's intermediates while they fit the budget, so that a changed recipe can use them."""
        paths = shard.intermediates()
        size = sum(self.workspace.size(path) for path in paths if self.workspace.exists(path))
        with self._lock:
            fits = self.kept_bytes + size <= self.settings.keep_intermediates_gb * GIGABYTE
            self.kept_bytes += size if fits else 0
        if not fits:
            for path in paths:
                self.workspace.delete(path)

    def worker_config(self, threads: int) -> WorkerConfig:
        """What a worker process needs to know."""
        return WorkerConfig(
            source=self.source.url,
            workspace=self.workspace.url,
            recipe=self.recipe.to_dict(),
            digests=self.digests,
            weights=self.weights,
            weights_dir=self.settings.weights_dir,
            weights_table=self.settings.weights_table,
            device=self.device,
            dtype=self.recipe.file.dtype,
            threads=threads,
            max_pixels=self.settings.max_pixels,
            load_at_once=not self.settings.placement,
            software=SOFTWARE,
        )

    def facts(self) -> dict[str, Any]:
        """What is written down about the run itself, for report and explain."""
        return {
            "run_id": self.id,
            "job": self.job.model_dump(mode="json"),
            "settings": self.settings.model_dump(mode="json"),
            "recipe": self.recipe.to_dict(),
            "digests": self.digests,
            "weights": self.weights,
            "device": self.device,
            "software": SOFTWARE,
            "python": platform.python_version(),
            "host": socket.gethostname(),
            "started": datetime.fromtimestamp(self.started, UTC).isoformat(),
            "links": {"Prefect run": flow_run.ui_url} if flow_run.ui_url else {},
        }

    def write_facts(self, **more: Any) -> None:
        """Writes `runs/<run id>.json`; called at the start and, with the totals, at the end."""
        text = json.dumps({**self.facts(), **more}, indent=2, ensure_ascii=True)
        self.workspace.write_atomic(f"runs/{self.id}.json", text.encode())

    def _complete(self, row: Row, stage_id: str) -> Row:
        with self._lock:
            self._sequence += 1
            sequence = self._sequence
        digest = self.digests[stage_id]
        return {
            **{name: row.get(name) for name in _FROM_WORKERS},
            "stage": stage_id,
            "stage_digest": digest,
            "stage_key": stage_key(row["image_id"], row["face"], digest),
            "attempt": row.get("attempt", 1),
            "detail": json.dumps(row["detail"]) if row.get("detail") else None,
            "started": datetime.fromisoformat(row["started"]),
            "finished": datetime.fromisoformat(row["finished"]),
            "run_id": self.id,
            "token": self.lease.token,
            "seq": sequence,
        }


@contextmanager
def open_run(job: Job, progress: Progress | None = None) -> Iterator[Run]:
    """Validates everything, takes the workspace's lease, opens the ledger; closes what was opened in any case.

    Raises JobError, RecipeError, SettingsError, WeightsError before anything is written, WorkspaceBusy when another
    run holds the workspace.
    """
    run = Run(job, job.load_settings(), job.load_recipe(), progress or Progress())
    _refuse_danger(run)
    with ExitStack() as stack:
        run.lease = stack.enter_context(Lease.acquire(run.workspace, owner=run.id))
        run.ledger = Ledger.open(run.workspace, buckets=_buckets(run))
        run.write_facts()
        yield run


def _refuse_danger(run: Run) -> None:
    """Raises JobError without a source, and where a folder `restored` is in the way that is not of our making."""
    if not run.source.exists("") and run.source.is_local:
        raise JobError(f"there is no archive at {run.source.shown_url}")
    if not run.workspace.exists("_format.json") and run.workspace.exists(RESTORED):
        raise JobError(
            f"{run.workspace.shown_url} holds a folder {RESTORED!r} that no run of ours made; "
            "nothing is overwritten, so choose another workspace"
        )


@contextmanager
def workers(run: Run) -> Iterator[None]:
    """Starts or joins the Ray cluster and the pool of worker processes for as long as there is work."""
    from infra.workers import Executor

    settings = run.settings
    with planned_pool(settings, run.device) as (_, pool):
        run.pool = pool
        config = run.worker_config(pool.threads).model_dump(mode="json")
        limits, pools = executor_settings(settings), cpu_pools(settings, pool.threads)
        with Executor(
            run.factory, config, pool=pool, settings=limits, pools=pools, placement=settings.placement
        ) as run.executor:
            run.executor.wait_ready()
            run.startup_seconds = time.time() - run.started
            run.course.mark("stood")
            run.kept_bytes = _intermediate_bytes(run.workspace)
            yield


def _intermediate_bytes(workspace: Storage) -> int:
    if not workspace.exists("intermediates"):
        return 0
    return sum(info.bytes or 0 for info in workspace.walk("intermediates"))


def _check_placement(recipe: Recipe, settings: Settings, device: Device) -> None:
    """Refuses pools that are not there, and networks sent from the GPU to a pool without one. Raises SettingsError."""
    for stage_id, pool in settings.placement.items():
        if stage_id not in {stage.id for stage in recipe.stages} or pool not in settings.pools:
            raise SettingsError(f"placement {stage_id} = {pool!r}: expected a stage of the recipe and one of `pools`")
        if device == "cuda" and recipe.stage(stage_id).cls.on_device:
            raise SettingsError(f"placement {stage_id} = {pool!r}: that stage computes on the GPU; pools are for CPUs")


def _buckets(run: Run) -> int:
    """For a new ledger, as many buckets as the archive's size asks for; an existing one has its own."""
    if run.workspace.exists("_format.json"):
        return 1
    return buckets_for(sum(1 for _ in run.source.walk()))


def prior_rows(run: Run, shard: Shard) -> list[Row]:
    """What the ledger knows of a shard's images, in the shape that workers return."""
    table = run.ledger.latest(image_ids=list(shard.images))
    return [_from_ledger(row) for row in table.to_pylist() if row["stage"] != COMMIT]


def _from_ledger(row: Row) -> Row:
    detail = json.loads(row["detail"]) if row.get("detail") else {}
    return {**row, "detail": detail, "metrics": dict(row.get("metrics") or {})}


_FROM_WORKERS = (
    "image_id",
    "face",
    "state",
    "reason_code",
    "reason",
    "metrics",
    "output_uri",
    "output_sha256",
    "worker",
    "device_ms",
)
