"""What a person at a terminal sees: results on stdout, progress and errors on stderr, in words."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from flows.session import Progress

PLAIN_SECONDS = 30.0
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, those that turn the direction of writing, and bytes that are no UTF-8."""


class _Terminal(Console):
    """Texts come from files and from whoever named them: nothing in them is markup, and no terminal obeys them."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)


def printable(text: str) -> str:
    """The text with its control characters spelt out."""
    return _OBEYED.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


out = _Terminal()
err = _Terminal(stderr=True)


def print_json(data: Mapping[str, object]) -> None:
    """One object on stdout, for scripts. ASCII, so that no odd file name breaks a pipe."""
    sys.stdout.write(json.dumps(data, ensure_ascii=True, default=str) + "\n")


def print_error(message: str, hint: str = "") -> None:
    """`error:` and, where there is a next step, `hint:`."""
    err.print(Text.assemble(("error:", "bold red"), " ", printable(message)))
    if hint:
        err.print(Text.assemble(("hint:", "bold"), " ", printable(hint)))


def duration(seconds: float) -> str:
    """Seconds in the unit that people would use."""
    for unit, length, below in (("s", 1.0, 120.0), ("min", 60.0, 7200.0), ("h", 3600.0, 172_800.0)):
        if seconds < below:
            return f"{seconds / length:.0f} {unit}" if unit == "s" else f"{seconds / length:.1f} {unit}"
    return f"{seconds / 86_400:.1f} days"


@contextmanager
def shown(progress: Progress) -> Iterator[Progress]:
    """Shows a run's progress on stderr while it lasts: live on a terminal, else one plain line every 30 seconds."""
    if err.is_terminal:
        with Live(get_renderable=lambda: _bars(progress), console=err, refresh_per_second=2, transient=True):
            yield progress
        return
    stop = threading.Event()
    ticker = threading.Thread(target=_tick, args=(progress, stop), daemon=True)
    ticker.start()
    try:
        yield progress
    finally:
        stop.set()
        ticker.join(timeout=1)


def _tick(progress: Progress, stop: threading.Event) -> None:
    while not stop.wait(PLAIN_SECONDS):
        err.print(_line(progress), style=None)


def _line(progress: Progress) -> str:
    if not progress.images:
        return "starting"
    eta = "" if progress.eta_seconds is None else f", {duration(progress.eta_seconds)} to go"
    if not eta and progress.expected_seconds is not None:
        eta = f", about {duration(progress.expected_seconds)} in all expected"
    return f"{progress.done}/{progress.images} images, {progress.rate:.2f} images/s{eta}"


def _bars(progress: Progress) -> Table:
    table = Table(show_edge=False, box=None, padding=(0, 2))
    for title in ("stage", "items", "reused", "failed", "items/s"):
        table.add_column(
            title, justify="left" if title == "stage" else "right", style="dim" if title == "reused" else ""
        )
    for name, count in list(progress.stages.items()):
        table.add_row(name, str(count.done), str(count.reused), str(count.failed), f"{count.rate:.1f}")
    table.caption = _line(progress) + (
        f"\nlast failure: {progress.last_failure[:200]}" if progress.last_failure else ""
    )
    table.caption_justify = "left"
    return table


def say(*parts: str) -> None:
    """A line of results, never wrapped, so that paths can be copied."""
    out.print(" ".join(part for part in parts if part), soft_wrap=True)
