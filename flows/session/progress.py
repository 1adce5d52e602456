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
        self.last_failure = ""
        self.expected_seconds: float | None = None  # of the whole run, from the command on, where a forecast knows
        self.began = time.monotonic()
        self.summary: Summary | None = None  # of the run, once everything is written
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
            count.last = now

    def failed(self, stage: str, what: str) -> None:
        """One item was given up."""
        with self._lock:
            self.stages.setdefault(stage, StageCount(began=time.monotonic())).failed += 1
            self.last_failure = what

    def committed(self, outcomes: Iterable[str]) -> None:
        """Images have their verdict."""
        with self._lock:
            self.outcomes.update(outcomes)

    @property
    def done(self) -> int:
        """Images with a verdict."""
        return self.outcomes.total()

    @property
    def fraction(self) -> float:
        """Share of the planned work: images with a verdict, and for the others the stages that they passed."""
        return self.done / self.images if self.images else 1.0

    @property
    def rate(self) -> float:
        """Images per second since the work began."""
        elapsed = time.monotonic() - self.began
        return self.done / elapsed if elapsed > 0 else 0.0

    @property
    def eta_seconds(self) -> float | None:
        """Seconds to go at the present rate; None before the first image is done."""
        return (self.images - self.done) / self.rate if self.done else None


watched: ContextVar[Progress | None] = ContextVar("watched", default=None)
"""The counters that somebody in this process is looking at; a run without a watcher counts for itself."""
