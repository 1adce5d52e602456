"""Memory for pictures: whoever decodes one waits until there is room for it, so that many large ones never meet.

Small pictures share what a process may use. A larger one is decoded alone on its machine, if the machine has room.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

BYTES_PER_PIXEL = 60
"""What a picture takes from decoding to scoring its result: 42 measured, and 18 for the result decoded again."""
SHARED = 1 << 30
"""Bytes that the pictures of one process may take together beside a larger one: 18 million pixels."""
SPARE = 0.9
"""Share of the free memory that a single picture may take."""


class NoRoom(Exception):
    """A picture needs more memory than the machine has to give, even with no other one in work."""


class Room:
    """The memory of one process for pictures; threads share it."""

    def __init__(self, shared: int = SHARED) -> None:
        self._shared, self._used = shared, 0
        self._changed = threading.Condition()

    @contextmanager
    def of(self, pixels: int) -> Iterator[None]:
        """Holds room for a picture of so many pixels; waits for it. Raises NoRoom where there cannot be enough."""
        need = pixels * BYTES_PER_PIXEL
        if need > self._shared:
            with _alone_on_this_machine():
                _insist_on(need)
                yield
            return
        with self._changed:
            self._changed.wait_for(lambda: self._used + need <= self._shared)
            self._used += need
        try:
            yield
        finally:
            with self._changed:
                self._used -= need
                self._changed.notify_all()


def _insist_on(need: int) -> None:
    free = psutil.virtual_memory().available
    if need > free * SPARE:
        raise NoRoom(
            f"expected memory for the picture, about {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; "
            "retry with fewer workers or on a machine with more"
        )


_large = threading.Lock()


@contextmanager
def _alone_on_this_machine() -> Iterator[None]:
    """One thread of one process at a time; the system lets go where a process dies. Elsewhere one per process."""
    with _large:
        if os.name != "posix":
            yield
            return
        import fcntl

        path = Path(tempfile.gettempdir()) / f"mpsr-large-picture-{os.getuid()}.lock"
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
