"""Of two rows about one thing the later one holds, whatever the clocks of those who wrote them say."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from places import ROOT

from infra.ledger import Event, FileRow, Lease, Policy, clean
from infra.ledger import ledger as numbers
from infra.ledger.ledger import Ledger
from infra.storage.storage import Storage

ID, OTHER = "ab" * 32, "cd" * 32
A, B = FileRow(path="a.jpg", image_id=ID), FileRow(path="b.jpg", image_id=OTHER)
ANOTHER = """
import sys, time
from infra.ledger import FileRow, Ledger
from infra.storage import Storage
true_ns, true = time.time_ns, time.time
time.time_ns = lambda: true_ns() + {hours} * 3_600_000_000_000
time.time = lambda: true() + {hours} * 3600
ledger = Ledger.open(Storage(sys.argv[1]), buckets=1)
ledger.append_inventory([FileRow(path="a.jpg", image_id="{image_id}")], "another")
if {folds}: ledger.fold()
"""


@pytest.fixture
def ledger(tmp_path):
    return Ledger.open(Storage(tmp_path), buckets=1)


@pytest.fixture
def process(monkeypatch):
    """Turns this process into another one that counts from nothing; called with what it returned it is back there."""

    def become(counts=None):
        before = numbers._last
        monkeypatch.setattr(numbers, "_last", counts or {})
        return before

    return become


def another_machine(ledger, hours, image_id=ID, folds=False):
    """Another process, whose clock is ahead or behind, sees a picture at a.jpg."""
    code = ANOTHER.format(hours=hours, image_id=image_id, folds=folds)
    subprocess.run([sys.executable, "-c", code, ledger.storage.url], cwd=ROOT, check=True, timeout=60)


def here(ledger, *rows):
    """A later run on this machine."""
    Ledger.open(ledger.storage).append_inventory(rows, "here")


def paths(ledger):
    return dict(zip(*(ledger.files().to_pydict()[name] for name in ("path", "image_id")), strict=True))


@pytest.mark.parametrize("folds", [True, False])
@pytest.mark.parametrize("hours", [1, 24 * 365])
def test_what_is_seen_after_a_run_whose_clock_was_ahead_is_seen(ledger, hours, folds, process):
    another_machine(ledger, hours, folds=folds)
    process()
    here(ledger, replace(A, image_id=OTHER), B)
    assert paths(ledger) == {"a.jpg": OTHER, "b.jpg": OTHER}
    here(ledger, replace(A, image_id=OTHER, present=False))
    assert paths(ledger) == {"b.jpg": OTHER}
    process()
    assert paths(ledger.with_news([A])) == {"a.jpg": ID, "b.jpg": OTHER}, "as the plan sees it"


def test_a_machine_whose_clock_is_behind_is_believed_as_well(ledger, process):
    here(ledger, A)
    another_machine(ledger, -1, OTHER)
    assert paths(ledger) == {"a.jpg": OTHER}


def test_a_known_picture_at_a_further_path_is_noticed_across_machines(ledger, process):
    another_machine(ledger, 1)
    process()
    verdict = Event(image_id=ID, state="done", outcome="restored", reason_code="ok", stage_digest="D")
    Ledger.open(ledger.storage).append_events([verdict], run_id="r", token=2, stage="commit", bucket=0)
    process()
    here(ledger, replace(B, image_id=ID))
    assert ledger.plan("D").to_pydict()["why"] == ["new_path"]


def test_merged_segments_hide_no_number(ledger, process):
    for n in range(3):
        here(ledger, A, replace(B, path=f"{n}.jpg"))
        ledger.fold()
    process()
    cleaned = Ledger.open(ledger.storage)
    clean(cleaned, Policy())
    process()
    here(ledger, replace(A, image_id=OTHER))
    assert paths(ledger)["a.jpg"] == OTHER


def test_who_lost_the_workspace_and_writes_late_loses(ledger, process):
    """A run sleeps, another takes over and finishes; then the first wakes up and writes what it saw long ago."""
    sleeper = Ledger.open(ledger.storage)
    Lease.acquire(ledger.storage, "sleeper").release()
    sleeper.numbers(0)
    count = process()
    Lease.acquire(ledger.storage, "the next").release()
    here(ledger, replace(A, image_id=OTHER))
    process(count)
    sleeper.append_inventory([A] * 1000, "sleeper")
    assert paths(ledger) == {"a.jpg": OTHER}


def test_numbers_of_earlier_versions_which_were_times_are_passed(ledger, process):
    process({ledger.storage.url: 1_900_000_000_000_000})  # microseconds: the year 2030
    here(ledger, A)
    process()
    here(ledger, replace(A, image_id=OTHER))
    assert paths(ledger) == {"a.jpg": OTHER}


def test_without_its_leases_a_workspace_goes_on_above_the_rows_that_it_holds(ledger):
    """Somebody deleted the folder `leases`: tokens that began at one again would lose against every older row."""
    told = {"image_id": ID, "outcome": "restored", "reason_code": "ok", "stage_digest": "D"}
    ledger.append_events([Event(state="done", **told)], run_id="r", token=7, stage="commit", bucket=0)
    with Lease.acquire(ledger.storage, "next") as lease:
        assert lease.token == 8
