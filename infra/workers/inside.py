"""A worker in threads of this process: the same answers as Ray's, nothing to start, and no isolation.

Small jobs are done before a cluster would stand. An item that kills its process ends the run here; on Ray it is found.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence

from infra.workers.actor import Answer, HostRunner, Keyed, Then, WorkerSpec
from infra.workers.errors import Trouble


class InsideWorker:
    """A host in this process. `kill` abandons what still runs: a thread cannot be ended."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._runner = HostRunner()
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        for _ in range(spec.window):
            threading.Thread(target=self._serve, name="inside-worker", daemon=True).start()

    def start(self, then: Then) -> None:
        spec = self._spec
        self._put(lambda: self._runner.start(spec.factory, dict(spec.config), spec.size.threads), then)

    def run(self, call: str, items: Sequence[Keyed], then: Then) -> None:
        self._put(lambda: self._runner.run(call, list(items)), then)

    def kill(self) -> None:
        for _ in range(self._spec.window):
            self._calls.put(None)

    def _put(self, work: Callable[[], Answer], then: Then) -> None:
        self._calls.put(lambda: then(_survived(work)))

    def _serve(self) -> None:
        while (work := self._calls.get()) is not None:
            work()


def _survived(work: Callable[[], Answer]) -> Answer:
    """What would end a process of its own is the end of this worker only."""
    try:
        return work()
    except SystemExit as error:
        return Trouble("poison", f"the host ended its process: {error!r}", died=True)
