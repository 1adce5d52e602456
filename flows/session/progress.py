"""Counts of a run in progress, for whoever watches: a terminal, or the dashboard."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flows.session.facts import Summary


@dataclass
class StageCount:
    """How far one stage is."""

    done: int = 0
    reused: int = 0
    failed: int = 0
    device_seconds: float = 0.0
    began: float = 0.0
    last: float = 0.0

    @property
    def rate(self) -> float:
        """Items per second of wall time while the stage had work; 0 before there is one."""
        span = self.last - self.began
        return (self.done - self.reused) / span if span > 0 else 0.0


class Progress:
    """Thread-safe counters. Subclasses may show them; this one only counts."""

    def __init__(self) -> None:
        self.images = 0
        self.outcomes: Counter[str] = Counter()
        self.stages: dict[str, StageCount] = {}
        self.stage = ""  # the one that came back last
        self.last_failure = ""
        self.expected_seconds: float | None = None  # of the whole run, from the command on, where a forecast knows
        self.asked = self.began = time.monotonic()
        self.summary: Summary | None = None  # of the run, once everything is written
        self._parts: dict[str, float] = {}  # part in flight → how many images' worth of it is done
        self._least_eta: float | None = None
        self._lock = threading.Lock()

    def planned(self, images: int) -> None:
        """How many images the run has to do; the clock of rate and ETA starts here."""
        self.images, self.began = images, time.monotonic()

    def advanced(self, stage: str, items: int, *, reused: int = 0, seconds: float = 0.0) -> None:
        """A micro-batch of a stage came back."""
        now = time.monotonic()
        with self._lock:
            count = self.stages.setdefault(stage, StageCount(began=now))
            count.done += items
            count.reused += reused
            count.device_seconds += seconds
            count.last, self.stage = now, stage

    def passed(self, part: str, images: float) -> None:
        """So many images' worth of a part in flight is done: 3.5 where seven images are half-way."""
        with self._lock:
            self._parts[part] = images

    def failed(self, stage: str, what: str) -> None:
        """One item was given up."""
        with self._lock:
            self.stages.setdefault(stage, StageCount(began=time.monotonic())).failed += 1
            self.last_failure = what

    def committed(self, outcomes: Iterable[str], part: str = "") -> None:
        """Images have their verdict, and with them the part that they were."""
        with self._lock:
            self._parts.pop(part, None)
            self.outcomes.update(outcomes)

    @property
    def done(self) -> int:
        """Images with a verdict."""
        return self.outcomes.total()

    @property
    def fraction(self) -> float:
        """Share of the planned work: images with a verdict, and for the others the stages that they passed."""
        with self._lock:
            worth = self.outcomes.total() + sum(self._parts.values())
        return min(1.0, worth / self.images) if self.images else 1.0

    @property
    def elapsed(self) -> float:
        """Seconds since the work began."""
        return time.monotonic() - self.began

    @property
    def rate(self) -> float:
        """Images' worth per second since the work began."""
        return self.fraction * self.images / self.elapsed if self.elapsed > 0 else 0.0

    @property
    def eta_seconds(self) -> float | None:
        """Seconds to go; None before anything is known. It does not rise: who was told a time plans by it.

        The forecast weighs as much as what is left to do, the pace so far as much as what is done. A forecast that has
        run out is forgotten, and with it what was told.
        """
        left = self._estimate() if self.images else None
        if left is not None:
            self._least_eta = left if self._least_eta is None else min(left, self._least_eta)
        return self._least_eta

    def _estimate(self) -> float | None:
        done = self.fraction
        paced = self.elapsed * (1 - done) / done if done else None
        if self.expected_seconds is None:
            return paced
        foretold = self.expected_seconds - (time.monotonic() - self.asked)
        if foretold <= 0:
            self.expected_seconds = self._least_eta = None
            return paced
        return foretold if paced is None else done * paced + (1 - done) * foretold


watched: ContextVar[Progress | None] = ContextVar("watched", default=None)
"""The counters that somebody in this process is looking at; a run without a watcher counts for itself."""
