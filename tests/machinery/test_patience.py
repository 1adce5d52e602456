"""What waiting mends is waited for, what it does not is said at once; how far a run is, and how long it goes on."""

from __future__ import annotations

import threading
import time

import pytest

from flows.session.patience import Patience
from flows.session.progress import Progress
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


# -- progress


class Clock:
    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr("flows.session.progress.time.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_the_bar_runs_over_stages_and_not_over_finished_pictures_alone(clock):
    progress = Progress()
    progress.planned(10)
    assert progress.fraction == 0
    progress.passed("a", 3.0)
    progress.passed("b", 1.0)
    assert progress.fraction == pytest.approx(0.4)
    progress.committed(["restored"] * 6, "a")
    assert progress.fraction == pytest.approx(0.7)
    progress.committed(["restored"] * 4, "b")
    assert progress.fraction == 1


def test_the_time_to_go_begins_with_the_forecast_follows_the_pace_and_never_rises(clock):
    progress = Progress()
    progress.expected_seconds = 60.0
    assert progress.eta_seconds is None, "nothing is planned yet"
    clock.now += 10
    progress.planned(10)
    assert progress.eta_seconds == pytest.approx(50)
    told = []
    for step in (1, 1, 5, 20, 1, 1):  # the fourth picture takes long
        clock.now += step
        progress.committed(["restored"])
        told.append(progress.eta_seconds)
    assert told == sorted(told, reverse=True)
    progress.committed(["restored"] * 4)
    assert progress.eta_seconds == 0


def test_a_forecast_that_has_run_out_is_not_told_any_more(clock):
    progress = Progress()
    progress.expected_seconds = 10.0
    progress.planned(4)
    clock.now += 9
    assert progress.eta_seconds == pytest.approx(1)
    clock.now += 3
    assert progress.eta_seconds is None
    progress.committed(["restored"])
    assert progress.eta_seconds == pytest.approx(36)


def test_a_line_says_how_far_at_what_pace_and_what_went_wrong(clock):
    from flows.cli.words.terminal import progress_line

    progress = Progress()
    assert progress_line(progress) == "starting"
    progress.planned(8)
    clock.now += 10
    progress.advanced("dehaze", 4)
    progress.committed(["restored", "restored", "restored", "quarantined"])
    assert progress_line(progress) == (
        "50 %  stage dehaze, 4/8 images, 0.40 images/s, 10 s, about 10 s to go, 1 quarantined"
    )
