"""Numbers of a run's images, gathered one image after another: measures, likeness, seconds.

It keeps some hundred bytes per image of the sample; it knows nothing of what a report shows.
"""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from tasks.pages.shared.distributions import Distribution, Floats, distribution
from tasks.pages.shared.measures import Measure, judge_among, measures_of
from tasks.pages.shared.records import FaceRecord
from tasks.stage import WHOLE_IMAGE

CHANGE = "change"
"""The metric of `tasks.measuring` that counts changed pixels, whichever way they changed."""


class Scores:
    """What was measured of every image, in the order in which they were added."""

    def __init__(self) -> None:
        self._seconds = array("d")
        self._columns: dict[str, _Column] = defaultdict(_Column)

    def add(self, faces: Sequence[FaceRecord]) -> None:
        """Adds an image by its faces."""
        image = len(self._seconds)
        for name, values in _by_metric(faces).items():
            self._columns[name].add(image, values)
        seconds = seconds_of(faces)
        self._seconds.append(math.nan if seconds is None else seconds)

    def measures(self) -> list[Measure]:
        """Every metric that was taken on the result."""
        return measures_of(self._columns)

    def leading(self) -> Measure | None:
        """The measure that files are compared by: the first that was taken before and after."""
        return next((measure for measure in self.measures() if measure.before), None)

    def distributions(self) -> Iterator[Distribution]:
        """One histogram per measure."""
        for measure in self.measures():
            before, after = (
                np.frombuffer(self._columns[name].values) if name else np.zeros(0)
                for name in (measure.before, measure.after)
            )
            yield distribution(measure, before, after)

    @property
    def seconds(self) -> Floats:
        """Per image; nan where no time was taken."""
        return np.array(self._seconds)

    @property
    def change(self) -> str | None:
        """The metric that says how much a result differs from its input; None where none was taken."""
        return next((measure.after for measure in self.measures() if measure.name == CHANGE), None)

    @property
    def judge(self) -> str | None:
        """The metric that files are compared by for likeness."""
        return judge_among(self._columns)

    @property
    def identity(self) -> Floats:
        """The least similarity among each image's faces, by one judge; nan where it measured nothing."""
        return self._padded(self._columns[self.judge].least if self.judge else array("d"))

    def means(self, name: str | None) -> Floats:
        """Mean over each image's faces; nan where nothing was measured."""
        return self._padded(self._columns[name].means if name in self._columns else array("d"))

    def _padded(self, values: array[float]) -> Floats:
        missing = len(self._seconds) - len(values)
        return np.concatenate([np.array(values), np.full(missing, np.nan)])


class _Column:
    """All values of one metric, and their mean and least per image up to the last that has one."""

    def __init__(self) -> None:
        self.values, self.means, self.least = array("d"), array("d"), array("d")

    def add(self, image: int, values: Sequence[float]) -> None:
        unmeasured = [math.nan] * (image - len(self.means))
        self.values.extend(values)
        self.means.extend([*unmeasured, sum(values) / len(values)])
        self.least.extend([*unmeasured, min(values)])


def mean_of(faces: Sequence[FaceRecord], metric: str | None) -> float | None:
    """Mean of a metric over an image's faces; None where nothing was measured."""
    values = _by_metric(faces).get(metric or "")
    return sum(values) / len(values) if values else None


def least_of(faces: Sequence[FaceRecord], metric: str | None) -> float | None:
    """The least value of a metric among an image's faces; None where nothing was measured."""
    return min(_by_metric(faces).get(metric or "", ()), default=None)


def seconds_of(faces: Sequence[FaceRecord]) -> float | None:
    """Device time of all steps; None where none was taken."""
    known = [step.device_ms for face in faces for step in face.steps if step.device_ms is not None]
    return sum(known) / 1000 if known else None


def _by_metric(faces: Sequence[FaceRecord]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = defaultdict(list)
    for face in faces:
        if face.face != WHOLE_IMAGE:
            for name, value in face.metrics.items():
                found[name].append(value)
    return found
