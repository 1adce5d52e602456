"""Measures of faces as pages tell them: today's names for all that ledgers hold, titles, directions, order."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

BEFORE, AFTER = "aligned", "restored"
"""Images that metrics are taken on: of a face as it was, and of its result."""
_OLD = {"input": BEFORE, "final": AFTER}
"""What ledgers of earlier versions call them."""
IDENTITIES = ("identity.restored", "identity_compact.restored")
"""The first of these that was measured ranks files by likeness; the small judge's numbers never mix with another's."""
LOWER_IS_BETTER = frozenset({"niqe", "brisque", "lpips", "dists", "change"})
_OF_PAIRS = frozenset({"identity", "identity_compact", "change"})
"""They compare input and result: there is nothing to measure before."""
_LEADING = ("quality", "clipiqa", "musiq", "maniqa", "niqe")
_TITLES = {
    "quality": "Quality",
    "identity": "Similarity to the input",
    "identity_compact": "Similarity to the input (small judge)",
    "sharpness": "Sharpness",
    "change": "Change of pixels",
    "clipiqa": "CLIP-IQA",
    "musiq": "MUSIQ",
    "maniqa": "MANIQA",
    "niqe": "NIQE",
    "qalign": "Q-Align",
}


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
        if self.name == "change":
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
    return _TITLES.get(base, base.replace("_", " "))


def current_name(metric: str) -> str:
    """Today's name of a metric that an earlier version may have written: `quality.input` → `quality.aligned`."""
    base, dot, image = metric.rpartition(".")
    return f"{base}{dot}{_OLD.get(image, image)}"


def numbers_of(metrics: Mapping[str, float]) -> dict[str, float]:
    """A row's metrics by today's names, without those that are no numbers."""
    return {
        current_name(name): float(value)
        for name, value in metrics.items()
        if value is not None and math.isfinite(value)
    }


def measures_of(names: Collection[str]) -> list[Measure]:
    """Every metric that was taken on the result, those that files are compared by first."""
    bases = sorted({name.rpartition(".")[0] for name in names}, key=_leading_first)
    return [measure_of(base, names) for base in bases if f"{base}.{AFTER}" in names]


def measure_of(base: str, names: Collection[str]) -> Measure:
    """The measure of that name, as far as it is among the names of metrics."""
    before, after = (name if (name := f"{base}.{image}") in names else None for image in (BEFORE, AFTER))
    return Measure(base, before, after, base not in LOWER_IS_BETTER)


def score_lines(metrics: Mapping[str, float]) -> Iterator[ScoreLine]:
    """A face's scores before and after, metric by metric; one that is of neither image stands alone."""
    bases = {name.removesuffix(f".{BEFORE}").removesuffix(f".{AFTER}"): None for name in metrics}
    for base in bases:
        before, after = metrics.get(f"{base}.{BEFORE}"), metrics.get(f"{base}.{AFTER}")
        alone = base in metrics
        yield ScoreLine(title(base), before, metrics[base] if alone else after, alone or base in _OF_PAIRS)


def _leading_first(base: str) -> tuple[int, str]:
    return (_LEADING.index(base) if base in _LEADING else len(_LEADING), base)
