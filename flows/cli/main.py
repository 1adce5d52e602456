"""`mpsr`: the command line. Results go to stdout, progress and errors to stderr; see EXIT_CODES in `options`.

This module imports nothing heavy: torch, Ray and Prefect are loaded by the commands that need them.
"""

from __future__ import annotations

import logging
import signal
import sys
from contextlib import suppress
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Annotated

import typer

from flows.cli import look, machine, measure, models, night, restore
from flows.cli.words import logs, terminal
from infra.problems import ForPeople

MACHINE = "This machine"
PANELS = {
    "Restore": (restore.run, restore.retry, restore.scan, restore.plan, restore.demo),
    "Look": (look.status, look.report, look.explain, look.verify),
    "Measure": (measure.evaluate, measure.compare, measure.benchmark),
    "Nightly gate": (night.promotions, night.rollback),
    MACHINE: (machine.clean, machine.repair, machine.train, machine.doctor, machine.serve),
}
"""Every command, as `mpsr --help` shows them."""
EXAMPLES = {
    "run": "`mpsr run PHOTOS -w OUT --recipe compact --exclude private`",
    "evaluate": "mpsr evaluate OUT --against PHOTOS",
    "compare": "mpsr compare recipe:compact OUT --against PHOTOS",
    "benchmark": "mpsr benchmark FACES --recipe compact --recipe mine.toml",
    "rollback": "mpsr rollback OUT",
}
log = logging.getLogger("mpsr")
app = typer.Typer(
    name="mpsr",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Restores the faces of large photo archives, and accounts for every file.\n\n"
    "`mpsr demo` shows it on pictures made on the spot; `mpsr run PHOTOS --workspace OUT` does it on yours; "
    "`mpsr doctor` says what this machine can do.",
)
for panel, commands in PANELS.items():
    for command in commands:
        name = command.__name__
        epilog = f"Example: {EXAMPLES[name]}" if name in EXAMPLES else None
        app.command(name, epilog=epilog, rich_help_panel=panel)(command)
app.add_typer(models.app, name="models", rich_help_panel=MACHINE)


def _print_version(asked: bool) -> None:
    if asked:
        terminal.say(f"mpsr-batch {version_of('mpsr-batch')}")
        raise typer.Exit


@app.callback()
def everywhere(
    version: Annotated[
        bool, typer.Option("--version", help="print the version", callback=_print_version, is_eager=True)
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="print errors and --json alone")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="log more")] = False,
    log_file: Annotated[Path, typer.Option(help="where warnings and tracebacks go")] = logs.LOG_FILE,
) -> None:
    """What holds for every command."""
    terminal.out.quiet = quiet
    with suppress(OSError):  # a home that cannot be written is no reason to do nothing
        logs.log_to(log_file, verbose=verbose)


def main() -> None:
    """The entry point: runs a command and turns errors into messages and exit codes; tracebacks go to the log."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except Exception as error:
        log.debug("the command ended", exc_info=True)
        told = error if isinstance(error, ForPeople) else _defect(error)
        if "--json" in sys.argv:
            terminal.print_json_error(told)
        terminal.print_error(str(told), told.hint)
        sys.exit(told.exit_code)


def _defect(error: Exception) -> ForPeople:
    """What is said of an error that nobody foresaw."""
    log.error("a defect", exc_info=error)
    where = (
        f"its traceback is in {logs.written_to()}"
        if logs.written_to()
        else "`mpsr --log-file FILE …` keeps its traceback"
    )
    return ForPeople(f"{type(error).__name__}: {error}; this is a defect of MPSR Batch, and {where}")


def _interrupt(*_: object) -> None:
    """A container that is stopped is told so by SIGTERM: wind down as for Ctrl-C."""
    raise KeyboardInterrupt
