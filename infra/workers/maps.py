"""The records that the scheduler works with: a map in work, its micro-batches, and the counts of what happened."""

from __future__ import annotations

import queue
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from infra.workers.actor import Keyed
from infra.workers.errors import Failure

_SUCCESSES_BEFORE_GROWTH = 8


@dataclass(frozen=True, kw_only=True)
class ExecutorSettings:
    """How patient the executor is. Waits in seconds."""

    window: int = 2
    """Calls inside a worker at once: one computes while another reads or writes."""
    retries: int = 4
    """Further tries of a micro-batch after an error of the machinery."""
    retry_wait: float = 1.0
    """Wait before the first retry; doubles with each, with ±50 % jitter."""
    call_timeout: float = 1800.0
    """A call without an answer for this long counts as the death of its worker."""
    start_timeout: float = 900.0
    """A worker that does not stand after this long (weights included) fails the run."""
    restart_wait: float = 0.2
    """Wait before a worker is started again; doubles with each death in a row, up to 10 s."""
    restarts_per_worker: int = 25
    """Restarts without one finished micro-batch in between, after which a worker is given up."""
    restarts_per_run: int = 1000
    """Deaths of workers with several calls inside, after which the run fails; bisection adds finitely many."""
    cancel_grace: float = 10.0
    """How long `cancel` waits for calls in flight."""


@dataclass(frozen=True)
class Done:
    """A finished micro-batch: the results of its items; or one item given up (`failure`, and no results)."""

    results: Sequence[Any]
    """What the host returned, in its order."""
    attempt: int = 1
    """Which try this was."""
    failure: Failure | None = None
    items: int = 1
    """How many items it settles."""


@dataclass
class CallStats:
    """What one call cost: micro-batches and items finished, and seconds inside the host (added over workers)."""

    batches: int = 0
    items: int = 0
    host_seconds: float = 0.0


@dataclass
class Stats:
    """What happened so far; `refreshes` are restarts on purpose, for an item that ran out of memory alone."""

    deaths: int = 0
    timeouts: int = 0
    restarts: int = 0
    refreshes: int = 0
    retries: int = 0
    halvings: int = 0
    failures: int = 0
    start_seconds: float = 0.0
    calls: dict[str, CallStats] = field(default_factory=dict)

    def snapshot(self) -> Stats:
        """A copy, safe to take while the scheduler counts on."""
        return replace(self, calls={call: replace(stats) for call, stats in list(self.calls.items())})


@dataclass(eq=False)
class Batch:
    """A micro-batch and its history."""

    job: Job
    items: Sequence[Keyed]
    attempt: int = 1
    retries: int = 0
    deaths: int = 0
    wants_fresh: bool = False
    had_fresh: bool = False
    not_before: float = 0.0

    def again(self) -> Batch:
        """The same items, one attempt later."""
        self.attempt += 1
        return self

    def halves(self) -> tuple[Batch, Batch]:
        """Two micro-batches that inherit attempts and retries, but no guilt."""
        middle = len(self.items) // 2
        first, second = (
            Batch(self.job, part, self.attempt + 1, self.retries) for part in (self.items[:middle], self.items[middle:])
        )
        return first, second


Message = Done | BaseException | None
"""What a map's consumer finds in its outbox: results, then None at the end or the error that ended it."""


class Job:
    """One map in work: items not yet handed out, micro-batches to be repeated, and the way back to its consumer."""

    def __init__(self, call: str, items: Sequence[Keyed], batch_size: int) -> None:
        self.call = call
        self.outbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.repeats: list[Batch] = []
        self.closed = False
        self._items = items
        self._batch_size = batch_size
        self._next = 0
        self._open = len(items)

    def take(self, now: float, limit: int) -> Batch | None:
        """The next micro-batch that may run now: a repeat first, else at most `limit` new items."""
        for batch in self.repeats:
            if batch.not_before <= now:
                self.repeats.remove(batch)
                return batch
        size = min(self._batch_size, limit)
        items = self._items[self._next : self._next + size]
        self._next += len(items)
        return Batch(self, items) if items else None

    def deliver(self, done: Done) -> None:
        """Hands results to the consumer, and the end after the last."""
        if self.closed:
            return
        self.outbox.put(done)
        self._open -= done.items
        if not self._open:
            self.close(None)

    def close(self, error: BaseException | None) -> None:
        """Ends the map for its consumer; whatever comes later is dropped."""
        if not self.closed:
            self.closed = True
            self.repeats.clear()
            self.outbox.put(error)


class SizeLimits:
    """The largest micro-batch per call that memory was seen to hold; grows again after a row of successes.

    Without it every new micro-batch of a call that is too large would first fail and then be halved.
    """

    def __init__(self) -> None:
        self._limits: dict[str, int] = {}
        self._successes: Counter[str] = Counter()

    def of(self, call: str, otherwise: int) -> int:
        """The limit of a call, `otherwise` where none was met."""
        return self._limits.get(call, otherwise)

    def failed(self, batch: Batch) -> None:
        """Only untouched micro-batches lower the limit: the halves of one with a single huge item say nothing."""
        if batch.attempt == 1 and len(batch.items) > 1:
            self._limits[batch.job.call] = len(batch.items) // 2
            self._successes[batch.job.call] = 0

    def succeeded(self, batch: Batch) -> None:
        """Counts towards trying twice the limit."""
        call = batch.job.call
        if len(batch.items) < self._limits.get(call, len(batch.items) + 1):
            return
        self._successes[call] += 1
        if self._successes[call] >= _SUCCESSES_BEFORE_GROWTH:
            self._limits[call] *= 2
            self._successes[call] = 0
