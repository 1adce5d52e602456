"""Measures of faces as pages tell them: today's names for all that ledgers hold, titles, directions, order."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from tasks.measuring import AFTER, BEFORE, METRICS, RECORDED, of_today, recorded


@dataclass(frozen=True, slots=True)
class Measure:
    """A metric as pages show it: `before`, `after` are its names by image (`quality.aligned`); either can be None."""

    name: str
    before: str | None
    after: str | None
    higher_is_better: bool = True

    @property
    def better(self) -> str:
        """Which way is better, in words; nothing where neither is."""
        if not recorded(self.name).better:
            return ""
        return "higher is better" if self.higher_is_better else "lower is better"


@dataclass(frozen=True, slots=True)
class ScoreLine:
    """One line of a face's scores; None is not measured, `alone` means that there is nothing to measure before."""

    title: str
    before: float | None
    after: float | None
    alone: bool


def title(base: str) -> str:
    """A metric's name for people."""
    return recorded(base).title


def current_name(metric: str) -> str:
    """Today's name of a metric that an earlier version may have written: `quality.input` → `quality.aligned`."""
    (name,) = of_today({metric: 0.0})
    return name


def numbers_of(metrics: Mapping[str, float]) -> dict[str, float]:
    """A row's metrics by today's names, without those that are no numbers."""
    return {
        name: float(value) for name, value in of_today(metrics).items() if value is not None and math.isfinite(value)
    }


def judge_among(names: Collection[str]) -> str | None:
    """The first similarity to the input that was measured; the small judge's numbers never mix with another's."""
    judges = (f"{name}.{AFTER}" for name in RECORDED if recorded(name).kind == "identity")
    return next((name for name in judges if name in names), None)


def measures_of(names: Collection[str]) -> list[Measure]:
    """Every metric that was taken on the result, those that files are compared by first."""
    bases = sorted({name.rpartition(".")[0] for name in names}, key=_leading_first)
    return [measure_of(base, names) for base in bases if f"{base}.{AFTER}" in names]


def measure_of(base: str, names: Collection[str]) -> Measure:
    """The measure of that name, as far as it is among the names of metrics."""
    before, after = (name if (name := f"{base}.{image}") in names else None for image in (BEFORE, AFTER))
    return Measure(base, before, after, recorded(base).better != "lower")


def score_lines(metrics: Mapping[str, float]) -> Iterator[ScoreLine]:
    """A face's scores before and after, metric by metric.

    One that is of neither image stands alone, and one that stages record beside: it compares input and result.
    """
    bases = {name.removesuffix(f".{BEFORE}").removesuffix(f".{AFTER}"): None for name in metrics}
    for base in bases:
        before, after = metrics.get(f"{base}.{BEFORE}"), metrics.get(f"{base}.{AFTER}")
        alone = base in metrics
        yield ScoreLine(title(base), before, metrics[base] if alone else after, alone or base in RECORDED)


def _leading_first(base: str) -> tuple[bool, int, str]:
    order = list(METRICS)
    return not recorded(base).leads, order.index(base) if base in order else len(order), base
