"""What a person at a terminal sees: results on stdout, progress and errors on stderr, in words."""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from flows.session import Progress
from infra.problems import ForPeople

PLAIN_SECONDS = 30.0
WARNINGS = ("mpsr.ledger", "mpsr.storage")
"""Loggers whose warnings concern the person at the terminal."""
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
    err.print(Text.assemble(("error:", "bold red"), " ", printable(message)), soft_wrap=True)
    if hint:
        err.print(Text.assemble(("hint:", "bold"), " ", printable(hint)), soft_wrap=True)


def print_json_error(error: ForPeople) -> None:
    """The error as one object on stdout, for scripts that asked for `--json`."""
    told = {"kind": type(error).__name__, "message": str(error), "hint": error.hint, "exit_code": error.exit_code}
    print_json({"schema": 1, "error": told})


def duration(seconds: float) -> str:
    """Seconds in the unit that people would use."""
    for unit, length, below in (("s", 1.0, 120.0), ("min", 60.0, 7200.0), ("h", 3600.0, 172_800.0)):
        if seconds < below:
            return f"{seconds / length:.0f} {unit}" if unit == "s" else f"{seconds / length:.1f} {unit}"
    return f"{seconds / 86_400:.1f} days"


def plural(n: int, one: str, many: str = "") -> str:
    """`1 file`, `2 files`."""
    return f"{n} {one if n == 1 else many or one + 's'}"


class _Aloud(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        err.print(Text.assemble(("note:", "bold yellow"), " ", printable(record.getMessage())), soft_wrap=True)


@contextmanager
def warnings_told() -> Iterator[None]:
    """Says on stderr what a run warns of while it lasts; Prefect's own console handler is silent."""
    aloud, loggers = _Aloud(logging.WARNING), [logging.getLogger(name) for name in WARNINGS]
    for logger in loggers:
        logger.addHandler(aloud)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(aloud)


@contextmanager
def shown(progress: Progress) -> Iterator[Progress]:
    """Shows a run's progress on stderr while it lasts: live on a terminal, else one plain line every 30 seconds."""
    if out.quiet:
        yield progress
        return
    if err.is_terminal:
        with Live(get_renderable=lambda: _live(progress), console=err, refresh_per_second=2, transient=True):
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
        err.print(progress_line(progress), style=None, soft_wrap=True)


def progress_line(progress: Progress) -> str:
    """How far a run is, in one line: `62 %  stage dehaze, 31/50 images, 0.84 images/s, 37 s, about 23 s to go`."""
    if not progress.images:
        return "starting"
    told = [
        f"{progress.done}/{plural(progress.images, 'image')}",
        f"{progress.rate:.2f} images/s",
        duration(progress.elapsed),
    ]
    if progress.stage:
        told.insert(0, f"stage {progress.stage}")
    if (left := progress.eta_seconds) is not None:
        told.append(f"about {duration(left)} to go")
    troubles = {name: n for name, n in progress.outcomes.items() if name in ("failed", "quarantined")}
    told += [f"{n} {name}" for name, n in troubles.items()]
    return f"{100 * progress.fraction:.0f} %  {', '.join(told)}"


def _live(progress: Progress) -> Group:
    """One bar over all the work, the line, and where something failed the last reason."""
    lines: list[RenderableType] = [
        ProgressBar(total=1.0, completed=progress.fraction if progress.images else 0.0, width=60),
        Text(progress_line(progress)),
    ]
    if progress.outcomes:
        lines.append(Text(", ".join(f"{n} {name.replace('_', ' ')}" for name, n in progress.outcomes.most_common())))
    if progress.last_failure:
        lines.append(Text(printable(f"last failure: {progress.last_failure[:200]}")))
    return Group(*lines)


def say_beside(text: str) -> None:
    """A line on stderr, beside results and progress."""
    err.print(text, soft_wrap=True)


def say(*parts: str) -> None:
    """A line of results, never wrapped, so that paths can be copied."""
    out.print(" ".join(part for part in parts if part), soft_wrap=True)
