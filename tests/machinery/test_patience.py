"""What waiting mends is waited for; what it does not mend is said at once."""

from __future__ import annotations

import threading
import time

import pytest

from flows.session.patience import Patience
from infra.storage.base import StorageError, StorageFullError


class Flaky:
    def __init__(self, *errors):
        self.errors, self.tries = list(errors), 0

    def __call__(self):
        self.tries += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def test_a_drive_that_comes_back_is_waited_for():
    flaky = Flaky(StorageError("stale file handle"), StorageError("stale file handle"))
    assert Patience((0.0, 0.0)).with_(flaky) == "done"
    assert flaky.tries == 3


def test_a_drive_that_stays_away_is_said():
    flaky = Flaky(*[StorageError("stale file handle")] * 9)
    with pytest.raises(StorageError, match="stale"):
        Patience((0.0, 0.0)).with_(flaky)
    assert flaky.tries == 3


@pytest.mark.parametrize("error", [StorageFullError("no space left"), ValueError("a defect")])
def test_what_waiting_does_not_mend_is_raised_at_once(error):
    flaky = Flaky(error)
    with pytest.raises(type(error)):
        Patience((60.0,)).with_(flaky)
    assert flaky.tries == 1


def test_nobody_waits_for_a_drive_after_the_run_was_stopped():
    patience, began = Patience((60.0,)), time.monotonic()
    threading.Timer(0.1, patience.end).start()
    with pytest.raises(StorageError):
        patience.with_(Flaky(StorageError("away")))
    assert time.monotonic() - began < 10
