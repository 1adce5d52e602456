"""Distributions of a measure over all faces, and how a page draws them: histograms as SVG paths."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.pages.shared.measures import Measure, title
from tasks.pages.shared.words import number

Floats = NDArray[np.float64]

BINS = 28
WIDTH, HEIGHT = 280.0, 84.0
"""Size of a histogram in its own units."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """Histogram of a measure over all faces. `edges` has one more entry than `before` and `after` have bins.

    `*_count` faces were measured, `*_mean` is their mean (None where there are none).
    """

    measure: Measure
    edges: tuple[float, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    before_count: int
    after_count: int
    before_mean: float | None
    after_mean: float | None


@dataclass(frozen=True, slots=True)
class Outline:
    """One side of a histogram: an SVG path in a box of WIDTH × HEIGHT, where its mean lies, and words."""

    path: str
    mark: float | None
    mean: str
    count: int


@dataclass(frozen=True, slots=True)
class Histogram:
    """A distribution as a page draws it; `paired` says whether there is anything before."""

    name: str
    title: str
    before: Outline
    after: Outline
    low: str
    high: str
    paired: bool
    better: str


def distribution(
    measure: Measure, before: Floats, after: Floats, limits: tuple[float, float] | None = None
) -> Distribution:
    """Histogram of one measure; what lies beyond `limits` (default: the data's own) counts in the outermost bins."""
    low, high = limits or _limits(np.concatenate([before, after]))
    edges = np.linspace(low, high, BINS + 1)
    counts = [np.histogram(values.clip(low, high), edges)[0] for values in (before, after)]
    means = [float(values.mean()) if values.size else None for values in (before, after)]
    return Distribution(
        measure,
        tuple(edges.tolist()),
        tuple(counts[0].tolist()),
        tuple(counts[1].tolist()),
        before.size,
        after.size,
        means[0],
        means[1],
    )


def _limits(values: Floats) -> tuple[float, float]:
    low, high = np.percentile(values, [0.2, 99.8]) if values.size > 500 else (values.min(), values.max())
    return (low - 0.5, high + 0.5) if high - low < 1e-9 else (low, high)


def histogram(d: Distribution) -> Histogram:
    """Both sides on one scale, each as shares of its own faces."""
    shares = [
        [n / total if total else 0.0 for n in bins]
        for bins, total in ((d.before, d.before_count), (d.after, d.after_count))
    ]
    top = max((share for side in shares for share in side), default=0.0) or 1.0
    limits = (d.edges[0], d.edges[-1])
    return Histogram(
        name=d.measure.name,
        title=title(d.measure.name),
        before=_outline([share / top for share in shares[0]], d.before_mean, d.before_count, limits),
        after=_outline([share / top for share in shares[1]], d.after_mean, d.after_count, limits),
        low=number(limits[0]),
        high=number(limits[1]),
        paired=d.measure.before is not None,
        better=d.measure.better,
    )


def _outline(heights: list[float], mean: float | None, count: int, limits: tuple[float, float]) -> Outline:
    """Stepped, from the lower left to the lower right."""
    step = WIDTH / len(heights)
    steps = [f"V{HEIGHT - share * (HEIGHT - 6):.1f}H{(n + 1) * step:.1f}" for n, share in enumerate(heights)]
    path = "".join([f"M0 {HEIGHT:g}", *steps, f"V{HEIGHT:g}Z"]) if count else ""
    low, high = limits
    mark = None if mean is None else round((min(max(mean, low), high) - low) / (high - low) * WIDTH, 1)
    return Outline(path, mark, number(mean), count)
