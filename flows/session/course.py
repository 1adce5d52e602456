"""How far a run has come and when each part of it was reached: what a forecast is held against."""

from __future__ import annotations

import time

from tasks.recipes import Forecast, Part

PARTS = {
    "prefect": ("asked", "began"),
    "scan": ("began", "planned"),
    "start_up": ("planned", "stood"),
    "work": ("stood", "worked"),
    "closing": ("worked", "closed"),
}
"""The parts of a forecast, and the marks of a run between which they lie."""


class Course:
    """When a run reached which point, beside what was forecast of it. Times are of the monotonic clock."""

    def __init__(self, began: float) -> None:
        """`began`: when somebody asked for the run."""
        self.marks = {"asked": began}
        self.mark("began")
        self.parts: list[Part] = []
        self.forecast: Forecast | None = None

    def foretold(self, parts: list[Part], forecast: Forecast | None) -> None:
        """What the run has to do, and what that should take where rates are known."""
        self.parts, self.forecast = parts, forecast

    def mark(self, what: str) -> None:
        """This point is reached now."""
        self.marks[what] = time.monotonic()

    def between(self, first: str, last: str) -> float:
        """Seconds from one mark to another; 0 where one was not reached."""
        return self.marks[last] - self.marks[first] if {first, last} <= self.marks.keys() else 0.0
