"""What a workspace forgets: old snapshots and intermediates go, rows never."""

from __future__ import annotations

import hashlib
import os
import time

import pytest
from transitions import illegal_transitions

from infra.ledger import retention
from infra.ledger.ledger import Ledger
from infra.ledger.retention import Policy, clean
from infra.ledger.rows import Event, FileRow
from infra.ledger.schema import bucket_of
from infra.storage.storage import Storage

IDS = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(40)]
DAY_S = 86_400


@pytest.fixture
def ledger(tmp_path):
    return Ledger.open(Storage(tmp_path), buckets=2)


def run(ledger, ids, token, state="done"):
    """Inventory and one segment per bucket and ten images, as a run leaves them; then a fold."""
    ledger.append_inventory([FileRow(path=f"{i}.jpg", image_id=i) for i in ids], f"run-{token}")
    for bucket in range(2):
        mine = [i for i in ids if bucket_of(i, 2) == bucket]
        for start in range(0, len(mine), 10):
            rows = [
                Event(image_id=i, state=state, stage_digest="D", outcome="restored") for i in mine[start : start + 10]
            ]
            ledger.append_events(rows, run_id=f"run-{token}", token=token, stage="commit", bucket=bucket)
    ledger.fold()


def rows(ledger):
    sql = "SELECT * FROM events ORDER BY seq"
    return ledger.query(sql).to_pylist(), ledger.files().to_pylist(), ledger.plan("D").to_pylist()


def disk(ledger):
    """Bytes that the workspace takes, files with several names counted once."""
    found = {p.stat().st_ino: p.stat().st_size for p in ledger.storage.local_path().rglob("*") if p.is_file()}
    return sum(found.values())


def files(ledger):
    return sorted(info.path for info in ledger.storage.walk())


def test_snapshots_go_segments_merge_and_no_row_is_lost(ledger):
    for token in range(1, 6):
        run(ledger, IDS, token)
    before, kept, size = rows(ledger), files(ledger), disk(ledger)
    forecast = clean(ledger, Policy(), dry_run=True)
    assert (files(ledger), disk(ledger)) == (kept, size), "a dry run changes nothing"
    done = clean(ledger, Policy())
    assert rows(ledger) == before
    assert len(before[0]) == 200
    assert illegal_transitions(ledger) == {"done -> done": 160}
    assert len(list((ledger.storage.local_path() / "events").rglob("*.parquet"))) == 2
    assert len(list((ledger.storage.local_path() / "inventory").rglob("*.parquet"))) == 1
    assert [item.what for item in done.items] == [item.what for item in forecast.items]
    segments = [path for path in kept if path.startswith(("events/", "inventory/"))]
    assert done.items[0].files == forecast.items[0].files == len(segments) - 3
    assert done.items[0].bytes == forecast.items[0].bytes > 0
    again = clean(ledger, Policy())
    assert (again.items[0].files, rows(ledger)) == (0, before)


def test_what_is_said_to_be_freed_is_freed(ledger):
    for token in range(1, 5):
        run(ledger, IDS, token)
    size = disk(ledger)
    freed = clean(ledger, Policy(merge_below_bytes=0))
    assert freed.bytes == size - disk(ledger)
    assert freed.files > 0
    assert clean(ledger, Policy(merge_below_bytes=0)).files == 0


def test_rows_appended_after_a_merge_are_read_and_folded(ledger):
    run(ledger, IDS, 1)
    run(ledger, IDS, 2)
    clean(ledger, Policy())
    run(ledger, IDS[:5], 3, "superseded")
    assert ledger.counts("state") == {"done": 35, "superseded": 5}
    clean(ledger, Policy())
    assert ledger.query("SELECT count(*) AS n FROM events").to_pylist() == [{"n": 85}]


@pytest.mark.parametrize("moment", ["republish", "_delete"])
def test_a_cleaning_cut_short_loses_and_doubles_nothing(ledger, monkeypatch, moment):
    run(ledger, IDS, 1)
    run(ledger, IDS, 2)
    before = rows(ledger)

    def power_cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(retention, moment, power_cut)
    with pytest.raises(KeyboardInterrupt):
        clean(ledger, Policy())
    monkeypatch.undo()
    assert rows(ledger) == before
    clean(ledger, Policy())
    assert rows(ledger) == before
    assert len(list((ledger.storage.local_path() / "events").rglob("*.parquet"))) == 2


def test_unfinished_snapshots_go(ledger):
    run(ledger, IDS, 1)
    ledger.storage.write_atomic("snapshot/v=000002/latest/commit/b00.parquet", b"half")
    clean(ledger, Policy())
    snapshots = {path.split("/")[1] for path in files(ledger) if path.startswith("snapshot/")}
    assert snapshots == {"v=000001", "v=000003"}


def intermediate(ledger, name, age_days, size=100):
    ledger.storage.write_atomic(f"intermediates/{name}", bytes(size))
    when = time.time() - age_days * DAY_S
    os.utime(ledger.storage.local_path(f"intermediates/{name}"), (when, when))


def left(ledger):
    return sorted(info.path.rpartition("/")[2] for info in ledger.storage.walk("intermediates"))


def test_intermediates_go_by_age_and_by_budget(ledger):
    for name, age in (("a", 30), ("b", 10), ("c", 5), ("d", 0)):
        intermediate(ledger, name, age)
    freed = clean(ledger, Policy(intermediates_days=14))
    assert left(ledger) == ["b", "c", "d"]
    assert [(i.files, i.bytes) for i in freed.items if i.what == "intermediates"] == [(1, 100)]
    clean(ledger, Policy(intermediates_days=14, intermediates_bytes=250))
    assert left(ledger) == ["c", "d"]


def test_replaced_outputs_go_with_their_promotions_and_candidates_by_age(ledger):
    today = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    long_ago = time.strftime("%Y%m%dT%H%M%S", time.gmtime(time.time() - 40 * DAY_S))
    for promotion in (f"{long_ago}-a", f"{today}-b", f"{today}-c", f"{today}-d"):
        ledger.storage.write_atomic(f"superseded/{promotion}/a/1.png", b"older")
        os.utime(ledger.storage.local_path(f"superseded/{promotion}/a/1.png"), (0, 0))  # as old as its picture
    for name, age in (("abc", 40), ("def", 1)):
        ledger.storage.write_atomic(f"candidates/{name}/restored/1.png", b"new")
        when = time.time() - age * DAY_S
        os.utime(ledger.storage.local_path(f"candidates/{name}/restored/1.png"), (when, when))
    forecast = clean(ledger, Policy(), dry_run=True)
    assert {i.what: i.files for i in forecast.items} | {"replaced outputs": 2, "candidates": 1} == {
        i.what: i.files for i in clean(ledger, Policy()).items
    }
    kept = {info.path.split("/")[1] for place in ("superseded", "candidates") for info in ledger.storage.walk(place)}
    assert kept == {f"{today}-c", f"{today}-d", "def"}
    clean(ledger, Policy(keep_superseded=0))
    assert not list(ledger.storage.walk("superseded"))


def test_leavings_of_crashes_go_but_not_writes_in_progress(ledger):
    for name, age in ((".mpsr-old.tmp", 3), (".mpsr-new.tmp", 0)):
        path = ledger.storage.local_path() / "restored" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"part")
        os.utime(path, (time.time() - age * DAY_S,) * 2)
    freed = clean(ledger, Policy())
    assert [(i.files, i.bytes) for i in freed.items if i.what == "unfinished writes"] == [(1, 4)]
    assert [p.name for p in (ledger.storage.local_path() / "restored").iterdir()] == [".mpsr-new.tmp"]
