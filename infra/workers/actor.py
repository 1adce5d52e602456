"""Workers: a host in a process of its own, a Ray actor.

It offers three verbs to the scheduler: start, run, kill; answers come through a callback, and even the death
of the process is an answer. Which item is to blame, and what to do about it, is the scheduler's business.
"""

from __future__ import annotations

import importlib
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from infra.workers.errors import HostContractBroken, Kind, Trouble


class Keyed(Protocol):
    """Anything with a name of its own: an item that a host gets, or a result that it gives for the item of that key."""

    @property
    def key(self) -> str: ...


_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Host(Protocol):
    """What a worker hosts; built once per worker by the factory."""

    def run(self, call: str, items: list[Any]) -> Sequence[Keyed]:
        """Does `call` for a micro-batch. Each result carries the `key` of its item; at least one result per item.

        Two calls may be inside at once from two threads (one reads or writes while one computes).
        """
        ...


@dataclass(frozen=True)
class PoolSize:
    """How many workers a pool has and what each may use. `gpus_per_actor` may be a fraction; `threads` per worker.

    inside: threads of this process in place of Ray's actors.
    """

    actors: int
    gpus_per_actor: float = 0.0
    cpus_per_actor: float = 1.0
    threads: int = 1
    inside: bool = False


@dataclass(frozen=True)
class Answered:
    """A finished micro-batch: its results and the seconds that the host spent on it."""

    results: Sequence[Keyed]
    seconds: float


Answer = Answered | Trouble
Then = Callable[[Answer], None]


class Worker(Protocol):
    """What the scheduler needs of a worker. Callbacks come from any thread and must only hand on."""

    def start(self, then: Then) -> None:
        """Builds the host; answers with no results when it stands."""
        ...

    def run(self, call: str, items: Sequence[Keyed], then: Then) -> None:
        """Runs one micro-batch."""
        ...

    def kill(self) -> None:
        """Ends the worker at once; calls inside it may never be answered."""
        ...


@dataclass(frozen=True)
class WorkerSpec:
    """What every worker of a pool is built from. `factory` is "package.module:function"; `window` calls at once."""

    factory: str
    config: Mapping[str, Any]
    size: PoolSize
    window: int


class HostRunner:
    """Lives where the host lives: builds it, checks its results, and turns every exception into plain data."""

    def __init__(self) -> None:
        self._host: Host | None = None

    def start(self, factory: str, config: Mapping[str, object], threads: int | None) -> Answer:
        """Builds the host. `threads` is set in the environment before the factory's module is imported."""
        if threads is not None:
            os.environ.update({name: str(threads) for name in _THREAD_VARIABLES})
        begun = time.perf_counter()
        try:
            self._host = _resolve(factory)(config)
        except Exception as error:
            return Trouble.of(error)
        return Answered([], time.perf_counter() - begun)

    def run(self, call: str, items: list[Keyed]) -> Answer:
        """Runs the host on a micro-batch."""
        assert self._host is not None, "run before start"
        begun = time.perf_counter()
        try:
            results = self._host.run(call, items)
            _check(call, items, results)
        except Exception as error:
            return Trouble.of(error)
        return Answered(results, time.perf_counter() - begun)


def _resolve(factory: str) -> Callable[[Mapping[str, object]], Host]:
    """The function that "package.module:function" names."""
    module, _, name = factory.partition(":")
    built: Callable[[Mapping[str, object]], Host] = getattr(importlib.import_module(module), name)
    return built


def _check(call: str, items: Sequence[Keyed], results: Sequence[Keyed]) -> None:
    keys, answered = {item.key for item in items}, {result.key for result in results}
    missing, foreign = keys - answered, answered - keys
    if missing or foreign:
        raise HostContractBroken(
            f"{call}: expected results for exactly the {len(keys)} items given; "
            f"none for {sorted(missing)[:3]}, and unasked ones for {sorted(foreign)[:3]}"
        )


class RayWorker:
    """A host in a Ray actor. Ray never restarts it and never repeats a call: the scheduler decides that."""

    def __init__(self, spec: WorkerSpec) -> None:
        import ray

        self._spec = spec
        options = ray.remote(HostRunner).options(
            num_cpus=spec.size.cpus_per_actor,
            num_gpus=spec.size.gpus_per_actor,
            max_concurrency=spec.window,
            max_restarts=0,
            max_task_retries=0,
        )
        self._actor = options.remote()

    def start(self, then: Then) -> None:
        spec = self._spec
        self._tell(self._actor.start.remote(spec.factory, dict(spec.config), spec.size.threads), then)

    def run(self, call: str, items: Sequence[Keyed], then: Then) -> None:
        self._tell(self._actor.run.remote(call, list(items)), then)

    def kill(self) -> None:
        import ray

        if not ray.is_initialized():
            return  # the cluster went first and took the worker with it; ray.kill would start a new one
        with suppress(ray.exceptions.RayError):
            ray.kill(self._actor, no_restart=True)

    def _tell(self, reference: Any, then: Then) -> None:
        future: Future[Answer] = reference.future()
        future.add_done_callback(lambda done: then(_ray_answer(done)))


def _ray_answer(future: Future[Answer]) -> Answer:
    """The answer of a call, or the death of the process that should have given it."""
    error = future.exception()
    if error is None:
        return future.result()
    # Ray's own memory monitor names its victims with a class of this name; the call was too large, not poisonous.
    kind: Kind = "resource" if type(error).__name__ == "OutOfMemoryError" else "poison"
    return Trouble(kind, _how_it_ended(str(error)), str(error), died=True)


def _how_it_ended(text: str) -> str:
    """The part of Ray's long message that differs from death to death, on one line."""
    line = " ".join(text.split())
    detail = re.search(r"Worker exit detail: (.+?)( Some common causes|$)", line)
    return f"its process ended: {detail[1] if detail else line}"[:500]
