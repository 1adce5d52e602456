"""Workers in threads of this process: the same answers as Ray's, no isolation, and no cluster to start."""

from __future__ import annotations

import queue
import threading

from infra.workers import executor, scheduler
from infra.workers.actor import HostRunner, RayWorker
from infra.workers.errors import Trouble


class InlineWorker:
    """Takes the place of RayWorker; `kill` abandons what still runs."""

    def __init__(self, spec):
        self._spec = spec
        self._runner = HostRunner()
        self._calls = queue.SimpleQueue()
        for _ in range(spec.window):
            threading.Thread(target=self._serve, name="inline-worker", daemon=True).start()

    def start(self, then):
        spec = self._spec
        self._put(lambda: self._runner.start(spec.factory, dict(spec.config), None), then)

    def run(self, call, items, then):
        self._put(lambda: self._runner.run(call, items), then)

    def kill(self):
        for _ in range(self._spec.window):
            self._calls.put(None)

    def _put(self, work, then):
        self._calls.put(lambda: then(_survived(work)))

    def _serve(self):
        while (work := self._calls.get()) is not None:
            work()


def _survived(work):
    """What would end a process of its own is the end of this worker only."""
    try:
        return work()
    except SystemExit as error:
        return Trouble("poison", f"the host ended its process: {error!r}", died=True)


def work_inline(monkeypatch, *, everything=False):
    """Lets every executor, or those whose config says `inline`, work in this process; the others stay on Ray."""

    def worker(spec):
        return InlineWorker(spec) if everything or spec.config.get("inline") else RayWorker(spec)

    monkeypatch.setattr(scheduler, "RayWorker", worker)
    monkeypatch.setattr(executor, "_require_ray", lambda: None)
