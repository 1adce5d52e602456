"""Where a command's log goes: warnings and tracebacks into a file, never onto the terminal."""

from __future__ import annotations

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

LOG_FILE = Path.home() / ".cache" / "mpsr" / "mpsr.log"
OURS = ("mpsr", "flows", "tasks", "infra")
"""Loggers of this package; Prefect and Ray arrange for their own."""
MOST_BYTES = 5_000_000


def log_to(path: Path, *, verbose: bool) -> None:
    """Sends what the package logs there, with `verbose` also what it merely tells. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(path, maxBytes=MOST_BYTES, backupCount=1, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in OURS:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.DEBUG if verbose else logging.WARNING)


def written_to() -> str:
    """The log file that is open; empty where none is."""
    handlers = logging.getLogger(OURS[0]).handlers
    return next((handler.baseFilename for handler in handlers if isinstance(handler, RotatingFileHandler)), "")
