"""A small streaming executor: one shared pool of long-lived workers, many maps at once, one bad item never the end.

    with Executor("package.module:build", config, pool=PoolSize(actors=2), settings=ExecutorSettings()) as executor:
        for done in executor.map("sharpen", items, batch_size=16):
            ...

Micro-batches travel as small records, never as pixels: the host in the worker reads and writes those itself. Knows
nothing of what hosts do. Workers that are not `inside` need a cluster (`start_or_join`) beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from infra.workers.actor import Keyed, PoolSize, WorkerSpec
from infra.workers.errors import (
    ExecutorCancelled,
    ExecutorError,
)
from infra.workers.maps import Done, ExecutorSettings, Job, Stats
from infra.workers.scheduler import Scheduler

_DEFAULT_POOL = "default"


class Executor:
    """Runs calls of a host on pools of workers; a context manager, thread-safe."""

    def __init__(
        self,
        factory: str,
        config: Mapping[str, Any],
        *,
        pool: PoolSize,
        settings: ExecutorSettings | None = None,
        pools: Mapping[str, PoolSize] | None = None,
        placement: Mapping[str, str] | None = None,
    ) -> None:
        """`factory` names a function "package.module:function" that turns `config` into a Host, once per worker.

        `pool` serves every call that `placement` (call → name in `pools`) does not send elsewhere.
        Raises ValueError where `placement` names a pool that does not exist.
        """
        self._settings = settings or ExecutorSettings()
        self._placement = dict(placement or {})
        self._sizes = {_DEFAULT_POOL: pool, **(pools or {})}
        _check_placement(self._placement, self._sizes)
        specs = {name: WorkerSpec(factory, config, size, self._settings.window) for name, size in self._sizes.items()}
        self._scheduler = Scheduler(specs, self._placement, self._settings)

    def __enter__(self) -> Self:
        """Begins to start the workers; does not wait for them."""
        if not all(size.inside for size in self._sizes.values()):
            _require_ray()
        self._scheduler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._scheduler.stop(ExecutorCancelled("the executor was closed"), grace=0.0)

    def wait_ready(self, timeout: float | None = None) -> None:
        """Waits until every worker stands. Raises WorkerStartFailed, or TimeoutError after `timeout` seconds."""
        self._scheduler.ready.result(timeout)

    def map(self, call: str, items: Sequence[Keyed], batch_size: int) -> Iterator[Done]:
        """Runs `call` on all items in micro-batches of at most `batch_size`; yields them as they finish, in any order.

        Work begins at once, before the first result is asked for. Every item comes back exactly once: in the
        results of one Done, or as the failure of one.

        Raises ValueError for items without a key of their own, and, while iterating, ExecutorError where the map as a
        whole cannot be finished.
        """
        self._check(call, items, batch_size)
        job = Job(call, items, batch_size)
        if items:
            self._scheduler.submit(job)
        else:
            job.close(None)
        return self._results(job)

    def cancel(self) -> None:
        """Stops handing out work, waits a bounded time for calls in flight, ends the workers.

        Maps deliver what was finished and then raise ExecutorCancelled.
        """
        self._scheduler.stop(ExecutorCancelled("the run was cancelled"), self._settings.cancel_grace)

    def stats(self) -> Stats:
        """Counts of deaths, retries and halvings so far, and what each call cost."""
        return self._scheduler.stats()

    def _results(self, job: Job) -> Iterator[Done]:
        try:
            while (message := job.outbox.get()) is not None:
                if isinstance(message, BaseException):
                    raise message
                yield message
        finally:
            if not job.closed:
                self._scheduler.abandon(job)

    def _check(self, call: str, items: Sequence[Keyed], batch_size: int) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if not self._sizes[self._placement.get(call, _DEFAULT_POOL)].actors:
            raise ValueError(f"call {call!r} is placed nowhere: the default pool has no workers")
        if len({item.key for item in items}) < len(items):
            raise ValueError(f"each of the {len(items)} items must have a key of its own")


def _check_placement(placement: Mapping[str, str], sizes: Mapping[str, PoolSize]) -> None:
    for call, name in placement.items():
        if name not in sizes:
            raise ValueError(f"call {call!r} is placed in pool {name!r}; pools are {', '.join(sorted(sizes))}")


def _require_ray() -> None:
    import ray

    if not ray.is_initialized():
        raise ExecutorError("Ray is not running in this process: call infra.workers.start_or_join first")
