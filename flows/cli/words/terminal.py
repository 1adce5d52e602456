"""What a person at a terminal sees: results on stdout, progress and errors on stderr, in words."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table

from flows.session import Progress
from infra.problems import ForPeople

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)
PLAIN_SECONDS = 30.0


def print_json(data: Mapping[str, object]) -> None:
    """One object on stdout, for scripts. ASCII, so that no odd file name breaks a pipe."""
    sys.stdout.write(json.dumps(data, ensure_ascii=True, default=str) + "\n")


def print_error(message: str, hint: str = "") -> None:
    """`error:` and, where there is a next step, `hint:`."""
    err.print(f"[bold red]error:[/] {plain(message)}", soft_wrap=True)
    if hint:
        err.print(f"[bold]hint:[/] {plain(hint)}", soft_wrap=True)


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
        f"\nlast failure: {plain(progress.last_failure[:200])}" if progress.last_failure else ""
    )
    table.caption_justify = "left"
    return table


def say(*parts: str) -> None:
    """A line of results; texts come from files and are not markup. Never wrapped, so that paths can be copied."""
    out.print(plain(" ".join(part for part in parts if part)), soft_wrap=True)


def plain(text: str) -> str:
    """Names of files are not markup."""
    return text.replace("[", r"\[")
