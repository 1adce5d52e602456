"""How pages say things: outcomes in words, numbers, times and addresses for people."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from markupsafe import Markup

from tasks.archive import FileOutcome

MISSING = "not measured"
"""What a page says in place of a number that nobody measured. It is never 0."""


@dataclass(frozen=True, slots=True)
class Words:
    """An outcome's name on the page and what it means."""

    label: str
    meaning: str


OUTCOME_WORDS: dict[FileOutcome, Words] = {
    "restored": Words("restored", "at least one face was restored and pasted back"),
    "fallback": Words("fallback", "a milder result was kept, so that the person stays the same person"),
    "left_alone": Words("left alone", "nothing was to be done; the copy is byte-identical"),
    "rejected_identity": Words("identity rejected", "no result was surely the same person; the original stays"),
    "skipped": Words("skipped", "not a picture, or excluded"),
    "failed": Words("failed", "could not be read or written this time; the next run tries again"),
    "quarantined": Words("quarantined", "set aside for a person to look at"),
    "pending": Words("pending", "not reached yet"),
}


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


def exact(value: float | None) -> str:
    """Four decimals, for tables that are compared with published ones."""
    return MISSING if value is None else f"{value:.4f}"


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


def plural(value: int, one: str, many: str = "") -> str:
    """1 face, 1,234 faces."""
    return f"{value:,} {one if value == 1 else many or one + 's'}"


def directed(title: str, better: str) -> Markup:
    """A metric's title with an arrow that says which way is better, where one is."""
    if not better:
        return Markup.escape(title)
    arrow = "↑" if better == "higher" else "↓"
    return Markup(
        '{0} <span class="way" title="{1} is better"><span aria-hidden="true">{2}</span>'
        '<span class="ear">, {1} is better</span></span>'
    ).format(title, better, arrow)


def web_link(address: str) -> str:
    """The address if it is http or https, else nothing: a link may not run a script."""
    return address if urlsplit(address).scheme in ("http", "https") else ""


def base_name(url: str) -> str:
    """The last part of a path or URL, as a title."""
    return url.rstrip("/").rpartition("/")[2] or url


FILTERS: dict[str, Callable[..., Any]] = {
    each.__name__: each for each in (count, number, exact, duration, moment, plural, web_link, base_name)
}
"""What templates may say of a value."""
