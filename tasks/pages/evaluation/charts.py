"""Charts of an evaluation's page as plain records: SVG paths in a box of BOX × BOX, ticks as shares, words for tables.

It turns numbers into drawings; it knows nothing of files, ledgers or pages.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, floor, log10

import numpy as np
from numpy.typing import NDArray

from tasks.measuring import BEFORE
from tasks.pages.evaluation.restoring import Gate
from tasks.pages.shared.distributions import Floats
from tasks.pages.shared.measures import current_name, title

BOX = 1000
DOTS = 12_000
"""Faces drawn in one plane; of more, as many by chance."""

_OTHERWISE = {"<": "≥", "<=": ">", ">": "≤", ">=": "<"}
_MET = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal}


@dataclass(frozen=True, slots=True)
class Axis:
    """One metric's axis. Places are shares of its length; `fires` is the part (from, to) where the condition holds."""

    title: str
    sign: str
    threshold: float
    low: float
    high: float
    mark: float
    fires: tuple[float, float]
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True, slots=True)
class Plane:
    """A gate's decisions over one or two metrics. `table` rows: where the face lay, how many ran, were spared.

    `ran` and `spared` are SVG paths of dots; `y` is None where the condition looks at one metric. Both are empty and
    `x` is None where it looks at more than two, or where nothing was measured.
    """

    stage: str
    text: str
    x: Axis | None
    y: Axis | None
    ran: str
    spared: str
    ran_count: int
    spared_count: int
    drawn: int
    unmeasured: int
    table: tuple[tuple[str, int, int], ...]


def plane_of(gate: Gate) -> Plane:
    """The chart of a gate."""
    known = ~np.isnan(gate.values).any(axis=1)
    values, ran = gate.values[known], gate.ran[known]
    drawable = len(gate.comparisons) <= 2 and len(values) > 0
    axes = [_axis(*comparison, values[:, n]) for n, comparison in enumerate(gate.comparisons)] if drawable else []
    places = [_places(values[:, n], axis, n) for n, axis in enumerate(axes)]
    if len(places) == 1:  # one metric: the height only keeps the dots apart
        places.append(np.random.default_rng(0).integers(60, BOX - 60, len(values)))
    chosen = np.random.default_rng(0).permutation(len(values))[:DOTS]
    return Plane(
        gate.stage,
        gate.text,
        axes[0] if axes else None,
        axes[1] if len(axes) > 1 else None,
        _dots(places, chosen[ran[chosen]]),
        _dots(places, chosen[~ran[chosen]]),
        int(gate.ran.sum()),
        int((~gate.ran).sum()),
        min(len(values), DOTS),
        int((~known).sum()),
        tuple(_table(gate, values, ran)),
    )


def _axis(name: str, sign: str, threshold: float, values: Floats) -> Axis:
    low, high = min(values.min(), threshold), max(values.max(), threshold)
    room = 0.04 * (high - low) or 0.5
    low, high = low - room, high + room
    mark = (threshold - low) / (high - low)
    fires = (0.0, mark) if sign.startswith("<") else (mark, 1.0)
    ticks = tuple(((at - low) / (high - low), f"{at:g}") for at in _ticks(low, high))
    base, _, image = current_name(name).rpartition(".")
    words = f"{title(base)} of the {'input' if image == BEFORE else image}"
    return Axis(words, sign, threshold, low, high, mark, fires, ticks)


def _ticks(low: float, high: float) -> list[float]:
    """Some round numbers between the two."""
    step = 10.0 ** floor(log10((high - low) / 3))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 6)
    return [round(n * step, 12) for n in range(ceil(low / step), floor(high / step) + 1)]


def _places(values: Floats, axis: Axis, n: int) -> NDArray[np.int64]:
    """Places in the box; the second axis runs upwards."""
    share = (values - axis.low) / (axis.high - axis.low)
    return np.rint(BOX * (1 - share if n else share)).astype(np.int64)


def _dots(places: list[NDArray[np.int64]], chosen: NDArray[np.intp]) -> str:
    if not places:
        return ""
    return "".join(f"M{x} {y}h0" for x, y in zip(places[0][chosen], places[1][chosen], strict=True))


def _table(gate: Gate, values: Floats, ran: NDArray[np.bool_]) -> Iterator[tuple[str, int, int]]:
    """For every combination of comparisons met and not met: how many faces ran and how many were spared."""
    met = np.stack([_MET[sign](values[:, n], limit) for n, (_, sign, limit) in enumerate(gate.comparisons)], axis=1)
    for combination in sorted({tuple(row) for row in met.tolist()}, reverse=True):
        here = (met == combination).all(axis=1)
        words = [
            f"{title(name.rpartition('.')[0])} {sign if holds else _OTHERWISE[sign]} {limit:g}"
            for holds, (name, sign, limit) in zip(combination, gate.comparisons, strict=True)
        ]
        yield ", ".join(words), int((here & ran).sum()), int((here & ~ran).sum())
