"""Hands micro-batches to workers and decides what to do when something goes wrong.

One thread owns all state and lives on a queue of events (answers of workers, new maps, a stop); nothing here needs a
lock. The order of work is round-robin over the maps, so that a slow stage of one shard does not starve another's.

A worker that died may have been killed by any of the calls inside it, by memory pressure, or by the machine. So each of
them becomes a suspect and is run again alone, with nothing beside it. A suspect that dies alone is halved until a
single item stands; one item that kills its worker twice while alone is given up. Suspects stay with the
worker that they killed, while the other workers go on.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

from infra.workers.actor import Answer, Answered, RayWorker, Worker, WorkerSpec
from infra.workers.errors import ExecutorError, Failure, ReasonCode, Trouble, WorkersKeepDying, WorkerStartFailed
from infra.workers.inside import InsideWorker
from infra.workers.maps import Batch, CallStats, Done, ExecutorSettings, Job, SizeLimits, Stats

log = logging.getLogger(__name__)

_TICK = 0.1
_LONGEST_RESTART_WAIT = 10.0
_LONGEST_RETRY_WAIT = 60.0
_DEATHS_BEFORE_FIRST_START = 3
_DEATHS_ALONE = 2
_UNLIMITED = 1 << 30


@dataclass(eq=False)
class Slot:
    """A place for one worker; outlives the workers that die in it."""

    pool: str
    spec: WorkerSpec
    worker: Worker | None = None
    up: bool = False
    ever_up: bool = False
    retired: bool = False
    exclusive: bool = False
    restarts_in_a_row: int = 0
    start_at: float | None = 0.0
    start_deadline: float = 0.0
    in_flight: dict[Batch, float] = field(default_factory=dict)
    suspects: deque[Batch] = field(default_factory=deque)


class Scheduler:
    """The event loop behind an executor. Public methods may be called from any thread (and from signal handlers)."""

    def __init__(
        self, pools: Mapping[str, WorkerSpec], placement: Mapping[str, str], settings: ExecutorSettings
    ) -> None:
        self.ready: Future[None] = Future()
        self._settings = settings
        self._placement = placement
        self._slots = {name: [Slot(name, spec) for _ in range(spec.size.actors)] for name, spec in pools.items()}
        self._rings: dict[str, deque[Job]] = {name: deque() for name in pools}
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._limits = SizeLimits()
        self._stats = Stats()
        self._unexplained = 0
        self._error: ExecutorError | None = None
        self._stop_at: float | None = None
        self._ended = threading.Event()
        self._watched = 0.0
        self._begun = 0.0
        self._thread = threading.Thread(target=self._serve, name="scheduler", daemon=True)

    def start(self) -> None:
        """Begins to start workers, and returns at once."""
        self._begun = time.monotonic()
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Takes a map into work; where the scheduler has ended already the map ends with the same error."""
        if self._thread.ident is None:
            raise ExecutorError("the executor is not running: use it as a context manager")
        self._events.put(partial(self._add, job))
        if self._ended.is_set():
            job.close(self._error)

    def abandon(self, job: Job) -> None:
        """Drops what is left of a map that nobody reads any more."""
        self._events.put(partial(job.close, None))

    def stop(self, error: ExecutorError, grace: float) -> None:
        """Hands out no more work, waits `grace` seconds for calls in flight, kills workers; maps end with `error`."""
        self._events.put(partial(self._begin_stop, error, grace))
        if self._thread.ident is not None:
            self._thread.join(grace + 30.0)

    def stats(self) -> Stats:
        """A copy of the counts as they stand."""
        return self._stats.snapshot()

    # -- the loop ----------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            while not self._over():
                self._take_events()
                self._watch()
                self._dispatch()
        except Exception as error:
            log.exception("the scheduler failed")
            self._error = ExecutorError(f"the scheduler failed: {type(error).__name__}: {error}")
        finally:
            self._end()

    def _over(self) -> bool:
        if self._stop_at is None:
            return False
        return time.monotonic() >= self._stop_at or not any(slot.in_flight for slot in self._all_slots())

    def _take_events(self) -> None:
        try:
            self._events.get(timeout=_TICK)()
            while True:
                self._events.get_nowait()()
        except queue.Empty:
            return

    def _end(self) -> None:
        assert self._error is not None
        for slot in self._all_slots():
            if slot.worker is not None:
                slot.worker.kill()
                slot.worker, slot.up = None, False
        self._ended.set()
        self._take_events()
        if not self.ready.done():
            self.ready.set_exception(self._error)
        for ring in self._rings.values():
            for job in ring:
                job.close(self._error)

    def _begin_stop(self, error: ExecutorError, grace: float) -> None:
        if self._error is None:
            self._error = error
        self._stop_at = min(self._stop_at or float("inf"), time.monotonic() + grace)

    def _add(self, job: Job) -> None:
        self._rings[self._placement.get(job.call, "default")].append(job)

    def _all_slots(self) -> list[Slot]:
        return [slot for slots in self._slots.values() for slot in slots]

    # -- handing out work --------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        if self._stop_at is not None:
            return
        for pool, slots in self._slots.items():
            for slot in slots:
                self._dispatch_suspect(slot)
            while (free := self._freest(slots)) and (batch := self._next_batch(pool)):
                self._send(free, batch)

    def _dispatch_suspect(self, slot: Slot) -> None:
        """Runs the slot's first suspect once nothing else is inside its worker."""
        while slot.suspects and slot.suspects[0].job.closed:
            slot.suspects.popleft()
        if not slot.suspects or not slot.up or slot.in_flight:
            return
        if slot.suspects[0].wants_fresh:
            slot.suspects[0].wants_fresh = False
            self._stats.refreshes += 1
            self._stop_worker(slot, start_at=0.0)
            return
        self._send(slot, slot.suspects.popleft(), alone=True)

    def _freest(self, slots: list[Slot]) -> Slot | None:
        window = self._settings.window
        free = [s for s in slots if s.up and not s.suspects and not s.exclusive and len(s.in_flight) < window]
        return min(free, key=lambda slot: len(slot.in_flight), default=None)

    def _next_batch(self, pool: str) -> Batch | None:
        ring, now = self._rings[pool], time.monotonic()
        for _ in range(len(ring)):
            job = ring.popleft()
            if job.closed:
                continue
            ring.append(job)
            if batch := job.take(now, self._limits.of(job.call, _UNLIMITED)):
                return batch
        return None

    def _send(self, slot: Slot, batch: Batch, alone: bool = False) -> None:
        worker = slot.worker
        assert worker is not None
        # A worker computes one call at a time: the later one's patience begins where the earlier one's ends.
        slot.in_flight[batch] = max([time.monotonic(), *slot.in_flight.values()]) + self._settings.call_timeout
        slot.exclusive = alone
        then = partial(self._post, self._answered, slot, worker, batch)
        worker.run(batch.job.call, batch.items, then)

    def _post(
        self,
        handle: Callable[[Slot, Worker, Batch, Answer], None],
        slot: Slot,
        worker: Worker,
        batch: Batch,
        answer: Answer,
    ) -> None:
        self._events.put(partial(handle, slot, worker, batch, answer))

    # -- answers -----------------------------------------------------------------------------------------------------

    def _answered(self, slot: Slot, worker: Worker, batch: Batch, answer: Answer) -> None:
        if slot.worker is not worker or batch not in slot.in_flight:
            return
        if isinstance(answer, Trouble) and answer.died:
            self._died(slot, answer)
            return
        del slot.in_flight[batch]
        slot.exclusive = False
        if isinstance(answer, Answered):
            slot.restarts_in_a_row = 0
            self._finished(batch, answer)
        else:
            self._troubled(slot, batch, answer)

    def _finished(self, batch: Batch, answer: Answered) -> None:
        stats = self._stats.calls.setdefault(batch.job.call, CallStats())
        stats.batches += 1
        stats.items += len(batch.items)
        stats.host_seconds += answer.seconds
        self._limits.succeeded(batch)
        batch.job.deliver(Done(answer.results, batch.attempt, items=len(batch.items)))

    def _troubled(self, slot: Slot, batch: Batch, trouble: Trouble) -> None:
        """An exception came out of the host: retry, halve or give up, as its kind asks."""
        passing = trouble.kind in ("infrastructure", "unwritable")
        if passing and batch.retries < self._settings.retries:
            self._retry_later(batch)
        elif trouble.kind == "resource":
            self._out_of_memory(slot, batch, trouble)
        elif len(batch.items) > 1:
            self._halve(batch)
        else:
            code: ReasonCode = "infrastructure" if passing else "stage_error"
            self._give_up(batch, Failure(batch.items[0], trouble.kind, code, trouble.text, batch.attempt))
            log.warning("%s", trouble.traceback)

    def _retry_later(self, batch: Batch) -> None:
        self._stats.retries += 1
        wait = min(self._settings.retry_wait * 2**batch.retries, _LONGEST_RETRY_WAIT) * random.uniform(0.5, 1.5)
        batch.retries += 1
        batch.not_before = time.monotonic() + wait
        batch.job.repeats.append(batch.again())

    def _out_of_memory(self, slot: Slot, batch: Batch, trouble: Trouble) -> None:
        self._limits.failed(batch)
        if len(batch.items) > 1:
            self._halve(batch)
        elif not batch.had_fresh:
            batch.had_fresh = batch.wants_fresh = True
            slot.suspects.append(batch.again())
        else:
            self._give_up(batch, Failure(batch.items[0], "resource", "out_of_memory", trouble.text, batch.attempt))

    def _halve(self, batch: Batch) -> None:
        self._stats.halvings += 1
        batch.job.repeats.extend(batch.halves())

    def _give_up(self, batch: Batch, failure: Failure) -> None:
        self._stats.failures += 1
        log.warning("%s gave up item %s: %s: %s", batch.job.call, failure.item.key, failure.reason_code, failure.reason)
        batch.job.deliver(Done([], failure.attempts, failure))

    # -- deaths ------------------------------------------------------------------------------------------------------

    def _died(self, slot: Slot, trouble: Trouble) -> None:
        """A worker is gone and with it every call inside it."""
        self._stats.deaths += 1
        log.warning("a worker of pool %s died: %s", slot.pool, trouble.text)
        lost, alone = list(slot.in_flight), slot.exclusive
        if trouble.late:
            self._limits.failed(lost[0])
        if trouble.kind == "resource":
            for batch in lost:
                self._out_of_memory(slot, batch, trouble)
        elif alone:
            self._blame(slot, lost[0], trouble)
        else:
            self._unexplained += 1
            slot.suspects.extend(batch.again() for batch in lost)
        self._restart(slot, trouble)

    def _blame(self, slot: Slot, batch: Batch, trouble: Trouble) -> None:
        """The call was alone in the worker that died."""
        if len(batch.items) > 1:
            self._stats.halvings += 1
            slot.suspects.extendleft(reversed(batch.halves()))
            return
        batch.deaths += 1
        if batch.deaths < _DEATHS_ALONE:
            slot.suspects.appendleft(batch.again())
        else:
            self._give_up(batch, _blamed(batch, trouble))

    def _restart(self, slot: Slot, trouble: Trouble) -> None:
        self._stats.restarts += 1
        slot.restarts_in_a_row += 1
        wait = min(self._settings.restart_wait * 2 ** (slot.restarts_in_a_row - 1), _LONGEST_RESTART_WAIT)
        self._stop_worker(slot, start_at=time.monotonic() + wait)
        if self._unexplained > self._settings.restarts_per_run:
            self._fail(WorkersKeepDying(f"workers died {self._unexplained} times; last: {trouble.text}"))
        elif slot.restarts_in_a_row > self._settings.restarts_per_worker:
            self._retire(slot, trouble)

    def _stop_worker(self, slot: Slot, start_at: float | None) -> None:
        if slot.worker is not None:
            slot.worker.kill()
        slot.worker, slot.up, slot.exclusive, slot.start_at = None, False, False, start_at
        slot.in_flight.clear()

    def _retire(self, slot: Slot, trouble: Trouble) -> None:
        """Gives a slot up; its suspects go to another, and without another the run ends."""
        slot.retired, slot.start_at = True, None
        others = [other for other in self._slots[slot.pool] if not other.retired]
        if not others:
            times = self._settings.restarts_per_worker
            self._fail(WorkersKeepDying(f"every worker died more than {times} times in a row; last: {trouble.text}"))
            return
        others[0].suspects.extend(slot.suspects)
        slot.suspects.clear()

    def _fail(self, error: ExecutorError) -> None:
        self._begin_stop(error, grace=0.0)

    # -- starting and watching ---------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Starts what is due and ends what takes too long."""
        now = time.monotonic()
        if now < self._watched + _TICK or self._stop_at is not None:
            return
        self._watched = now
        for slot in self._all_slots():
            if slot.start_at is not None and now >= slot.start_at:
                self._launch(slot)
            elif slot.worker is not None and not slot.up and now >= slot.start_deadline:
                self._fail(WorkerStartFailed(self._too_slow(slot)))
            elif any(now >= deadline for deadline in slot.in_flight.values()):
                self._stats.timeouts += 1
                text = f"no answer within {self._settings.call_timeout:g} s (call_timeout)"
                self._died(slot, Trouble("poison", text, died=True, late=True))

    def _launch(self, slot: Slot) -> None:
        worker = InsideWorker(slot.spec) if slot.spec.size.inside else RayWorker(slot.spec)
        slot.worker, slot.start_at = worker, None
        slot.start_deadline = time.monotonic() + self._settings.start_timeout
        worker.start(lambda answer: self._events.put(partial(self._started, slot, worker, answer)))

    def _started(self, slot: Slot, worker: Worker, answer: Answer) -> None:
        if slot.worker is not worker:
            return
        if isinstance(answer, Answered):
            slot.up = slot.ever_up = True
            self._note_ready()
        elif slot.ever_up or (answer.died and slot.restarts_in_a_row + 1 < _DEATHS_BEFORE_FIRST_START):
            self._restart(slot, answer)
        else:
            log.error("%s", answer.traceback)
            self._fail(WorkerStartFailed(f"a worker could not start ({slot.spec.factory}): {answer.text}"))

    def _note_ready(self) -> None:
        if not self.ready.done() and all(slot.up for slot in self._all_slots()):
            self._stats.start_seconds = time.monotonic() - self._begun
            self.ready.set_result(None)

    def _too_slow(self, slot: Slot) -> str:
        size = slot.spec.size
        return (
            f"a worker of pool {slot.pool} did not start within {self._settings.start_timeout:g} s; it asks for "
            f"{size.cpus_per_actor:g} CPUs and {size.gpus_per_actor:g} GPUs: does the cluster have them free?"
        )


def _blamed(batch: Batch, trouble: Trouble) -> Failure:
    item, times, attempt = batch.items[0], batch.deaths, batch.attempt
    if trouble.late:
        reason = f"found no end {times} times while alone in its worker: {trouble.text}"
        return Failure(item, "infrastructure", "too_slow", reason, attempt)
    reason = f"killed its worker {times} times while alone in it: {trouble.text}"
    return Failure(item, "poison", "killed_worker", reason, attempt)
