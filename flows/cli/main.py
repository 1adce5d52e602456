"""`mpsr`: the command line. Results go to stdout, progress and errors to stderr; see EXIT_CODES in `options`.

This module imports nothing heavy: torch, Ray and Prefect are loaded by the commands that need them.
"""

from __future__ import annotations

import os
import signal
import sys

import typer

from flows.cli import look, machine, measure, models, night, restore
from flows.cli.words import terminal
from infra.problems import ForPeople

MACHINE = "This machine"
PANELS = {
    "Restore": (restore.run, restore.retry, restore.scan, restore.plan, restore.demo),
    "Look": (look.status, look.report, look.explain, look.verify),
    "Measure": (measure.evaluate, measure.compare, measure.benchmark),
    "Nightly gate": (night.promotions, night.rollback),
    MACHINE: (machine.clean, machine.repair, machine.train, machine.doctor, machine.serve, models.recipes),
}
"""Every command, as `mpsr --help` shows them."""
EXAMPLES = {
    "run": "`mpsr run PHOTOS -w OUT --recipe compact --exclude private`",
    "evaluate": "mpsr evaluate OUT --against PHOTOS",
    "compare": "mpsr compare recipe:compact OUT --against PHOTOS",
    "benchmark": "mpsr benchmark FACES --recipe compact --recipe mine.toml",
    "rollback": "mpsr rollback OUT",
}
app = typer.Typer(
    name="mpsr",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
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


def main() -> None:
    """The entry point: runs a command and turns errors that people can act on into messages and exit codes."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except ForPeople as error:
        if os.environ.get("MPSR_DEBUG"):
            terminal.err.print_exception()
        terminal.print_error(str(error), error.hint)
        sys.exit(error.exit_code)
    except Exception as error:
        terminal.err.print_exception()
        terminal.print_error(str(error))
        sys.exit(3)


def _interrupt(*_: object) -> None:
    """A container that is stopped is told so by SIGTERM: wind down as for Ctrl-C."""
    raise KeyboardInterrupt
