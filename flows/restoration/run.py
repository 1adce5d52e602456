"""One run: everything that the steps of a flow share, opened once and closed in the right order.

A run holds the workspace's lease, its ledger, the recipe with its digests, and (while there is work) the workers.
The steps themselves are in flows.restoration.story.
"""

from __future__ import annotations

import platform
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flows.jobs import Job, looked_at
from flows.restoration.checks import check
from flows.restoration.dashboard import Board
from flows.restoration.shard import Shard
from flows.session import (
    GIGABYTE,
    SOFTWARE,
    Course,
    Patience,
    Prepared,
    Progress,
    RanJob,
    RanRecipe,
    RunFacts,
    RunStopped,
    Session,
    cpu_pools,
    executor_settings,
    flow_url,
    open_session,
    planned_pool,
    write_run_facts,
)
from infra.ledger import COMMIT, Event, events_of
from infra.storage import Storage

if TYPE_CHECKING:
    from infra.workers import Executor, PoolSize
    from tasks.recipes import RecipeStage


FACTORY = "tasks.worker.worker:build"
"""Makes the host of every worker process."""


class Run:
    """See the module. Build one with `open_run`."""

    executor: Executor
    pool: PoolSize

    def __init__(self, prepared: Prepared, session: Session, source: Storage, progress: Progress) -> None:
        self.prepared, self.session, self.source, self.progress = prepared, session, source, progress
        self.job, self.settings, self.recipe = prepared.job, prepared.settings, prepared.recipe
        self.digests, self.device = prepared.digests, prepared.device
        self.id, self.workspace, self.ledger = session.id, session.storage, session.ledger
        self.patience = Patience()
        self.course = Course(progress.began)
        self.board = Board()
        self.quarantined = self.committed = 0
        self.startup_seconds: float | None = None  # until workers stood; None where none were needed
        self._kept_bytes = 0
        self._lock = threading.Lock()

    @contextmanager
    def workers(self, images: int) -> Iterator[None]:
        """Brings up the engine and its workers for as long as there is work, which is so many images."""
        from infra.workers import Executor

        settings = self.settings
        with planned_pool(settings, self.device, images) as (_, self.pool):
            config = self.prepared.worker_config(self.workspace.url, self.pool.threads).model_dump(mode="json")
            limits, pools = executor_settings(settings), cpu_pools(settings, self.pool.threads)
            with Executor(
                FACTORY, config, pool=self.pool, settings=limits, pools=pools, placement=settings.placement
            ) as self.executor:
                self.executor.wait_ready()
                self.startup_seconds = time.time() - self.session.started
                self.course.mark("stood")
                self._kept_bytes = _intermediate_bytes(self.workspace)
                yield

    def abandon(self) -> None:
        """Ends what is in flight."""
        self.patience.end()
        self.executor.cancel()

    def advanced(self, shard: Shard, stage: RecipeStage, share: float) -> None:
        """Tells the progress how far a shard is: the stages behind it, and so much of this one."""
        before = [each.id for each in self.recipe.stages].index(stage.id)
        self.progress.passed(shard.id, len(shard.images) * (before + share) / len(self.recipe.stages))

    def count(self, shard: Shard, verdicts: Iterable[Event]) -> None:
        """Adds a shard's verdicts to the run's counts, and stops the run loudly when too many were quarantined."""
        outcomes = [verdict.outcome or "pending" for verdict in verdicts]
        with self._lock:
            self.committed += len(outcomes)
            self.quarantined += outcomes.count("quarantined")
        self.progress.committed(outcomes, shard.id)
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
            fits = self._kept_bytes + size <= self.settings.keep_intermediates_gb * GIGABYTE
            self._kept_bytes += size if fits else 0
        if not fits:
            for path in paths:
                self.workspace.delete(path)

    def facts(self) -> RunFacts:
        """What is known of the run before it has done anything."""
        return RunFacts(
            run_id=self.id,
            job=RanJob(**self.job.model_dump()),
            settings=self.settings.model_dump(mode="json"),
            recipe=RanRecipe.model_validate(self.recipe.to_dict()),
            digests=dict(self.digests),
            weights=dict(self.prepared.weights),
            device=self.device,
            software=SOFTWARE,
            python=platform.python_version(),
            host=socket.gethostname(),
            started=datetime.fromtimestamp(self.session.started, UTC).isoformat(),
            links={"Prefect run": url} if (url := flow_url()) else {},
        )

    def write_facts(self, **more: Any) -> None:
        """Writes `runs/<run id>.json`; called at the start and, with the totals, at the end."""
        write_run_facts(self.workspace, self.facts().model_copy(update=more))


@contextmanager
def open_run(job: Job, progress: Progress | None = None) -> Iterator[Run]:
    """Validates everything, takes the workspace's lease, opens the ledger; closes what was opened in any case.

    Raises what `check` raises before anything is written, and WorkspaceBusy when another run holds the workspace.
    """
    prepared, source = check(job), Storage(job.source, apart=Storage(job.workspace))
    workspace = Storage(job.workspace, apart=None if job.files else Storage(job.source))
    with open_session(workspace, lambda: sum(1 for _ in looked_at(job, source).walk())) as session:
        run = Run(prepared, session, source, progress or Progress())
        run.write_facts()
        yield run


def _intermediate_bytes(workspace: Storage) -> int:
    if not workspace.exists("intermediates"):
        return 0
    return sum(info.bytes or 0 for info in workspace.walk("intermediates"))


def prior_events(run: Run, shard: Shard) -> list[Event]:
    """What the ledger knows of a shard's faces and pictures, stage by stage."""
    table = run.ledger.latest(image_ids=list(shard.images))
    return [event for event in events_of(table) if event.stage != COMMIT]
