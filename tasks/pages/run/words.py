"""How the report says things: outcomes in words, numbers for people, histograms as SVG paths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from tasks.pages.run.records import MISSING, Distribution, Measure

WIDTH, HEIGHT = 280.0, 84.0
"""Size of a histogram in its own units."""


@dataclass(frozen=True)
class Words:
    """An outcome's name on the page and what it means."""

    label: str
    meaning: str


OUTCOME_WORDS = {
    "restored": Words("restored", "at least one face was restored and pasted back"),
    "fallback": Words("fallback", "a milder result was kept, so that the person stays the same person"),
    "left_alone": Words("left alone", "nothing was to be done; the copy is byte-identical"),
    "rejected_identity": Words("identity rejected", "no result was surely the same person; the original stays"),
    "skipped": Words("skipped", "not a picture, or excluded"),
    "failed": Words("failed", "could not be read or written this time; the next run tries again"),
    "quarantined": Words("quarantined", "set aside for a person to look at"),
    "pending": Words("pending", "not reached yet"),
}


@dataclass(frozen=True)
class Histogram:
    """A distribution as the page draws it: paths in a box of WIDTH × HEIGHT, marks for the means, words for ears."""

    name: str
    title: str
    before: str
    after: str
    before_mark: float | None
    after_mark: float | None
    low: str
    high: str
    before_mean: str
    after_mean: str
    before_count: int
    after_count: int
    paired: bool
    better: str


def histogram(d: Distribution) -> Histogram:
    """Both histograms on one scale, each as shares of its own faces."""
    low, high = d.edges[0], d.edges[-1]
    shares = [[n / total if total else 0.0 for n in bins] for bins, total in _sides(d)]
    top = max((s for side in shares for s in side), default=0.0) or 1.0
    return Histogram(
        name=d.measure.name,
        title=title(d.measure.name),
        before=_outline([s / top for s in shares[0]]) if d.before_count else "",
        after=_outline([s / top for s in shares[1]]) if d.after_count else "",
        before_mark=_mark(d.before_mean, low, high),
        after_mark=_mark(d.after_mean, low, high),
        low=number(low),
        high=number(high),
        before_mean=number(d.before_mean),
        after_mean=number(d.after_mean),
        before_count=d.before_count,
        after_count=d.after_count,
        paired=d.measure.before is not None,
        better=_better(d.measure),
    )


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


def _better(measure: Measure) -> str:
    if measure.name == "change":
        return ""  # how much a face changed is neither good nor bad
    return "higher is better" if measure.higher_is_better else "lower is better"


def title(base: str) -> str:
    """A metric's name for people."""
    return _TITLES.get(base, base.replace("_", " "))


def _sides(d: Distribution) -> tuple[tuple[tuple[int, ...], int], tuple[tuple[int, ...], int]]:
    return (d.before, d.before_count), (d.after, d.after_count)


def _outline(heights: list[float]) -> str:
    """A stepped outline from the lower left to the lower right."""
    step = WIDTH / len(heights)
    parts = [f"M0 {HEIGHT:g}"]
    for n, share in enumerate(heights):
        parts.append(f"V{HEIGHT - share * (HEIGHT - 6):.1f}H{(n + 1) * step:.1f}")
    return "".join([*parts, f"V{HEIGHT:g}Z"])


def _mark(mean: float | None, low: float, high: float) -> float | None:
    return None if mean is None else round((min(max(mean, low), high) - low) / (high - low) * WIDTH, 1)


def count(value: int | None) -> str:
    """1234567 → 1,234,567."""
    return MISSING if value is None else f"{value:,}"


def number(value: float | None) -> str:
    """Three digits that matter: 0.734, 12.3, 1,234."""
    if value is None:
        return MISSING
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def duration(seconds: float | None) -> str:
    """0.42 → 420 ms; 75 → 1 min 15 s; 7322 → 2 h 02 min; 200000 → 2 d 7 h."""
    return MISSING if seconds is None else _duration(seconds).replace(" ", "\N{NO-BREAK SPACE}")


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def moment(when: datetime | None) -> str:
    """In UTC, to the minute."""
    return MISSING if when is None else f"{when.astimezone(UTC):%d %B %Y, %H:%M} UTC".lstrip("0")


def web_link(address: str) -> str:
    """The address if it is http or https, else nothing: a link may not run a script."""
    return address if urlsplit(address).scheme in ("http", "https") else ""


def base_name(url: str) -> str:
    """The last part of a path or URL, as a title."""
    return url.rstrip("/").rpartition("/")[2] or url


FILTERS: dict[str, Callable[..., Any]] = {
    "count": count,
    "number": number,
    "duration": duration,
    "moment": moment,
    "web_link": web_link,
    "base_name": base_name,
}
