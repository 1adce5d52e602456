"""Storage that is away for a minute: what may be repeated is repeated before a run is given up."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from infra.storage import (
    PathRefusedError,
    StorageDeniedError,
    StorageError,
    StorageExistsError,
    StorageFullError,
    StorageMissingError,
)

Result = TypeVar("Result")
LASTING = (StorageFullError, StorageDeniedError, StorageMissingError, StorageExistsError, PathRefusedError)
"""Errors that waiting does not mend."""
WAITS = (2.0, 10.0, 30.0, 60.0)
"""Seconds between one try and the next: longer than most network drives take to come back."""
_log = logging.getLogger("mpsr.storage")


class Patience:
    """Repeats what a storage error cut short, until somebody ends the patience."""

    def __init__(self, waits: Sequence[float] = WAITS) -> None:
        self._waits = waits
        self._over = threading.Event()

    def end(self) -> None:
        """From now on every error is raised at once, and whoever waits stops waiting."""
        self._over.set()

    def with_(self, do: Callable[[], Result]) -> Result:
        """What `do` returns, which must be such that doing it twice does no harm. Raises its last error."""
        for wait in self._waits:
            try:
                return do()
            except LASTING:
                raise
            except StorageError as error:
                _log.warning("%s; trying again in %g s", error, wait)
                if self._over.wait(wait):
                    raise
        return do()
