"""Bits rot: a file of the ledger that is not what was written is named and set aside, and the rest goes on."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from pathlib import Path

import pytest

from infra.ledger import Event, FileRow, Policy, clean, damaged_files, set_aside_damaged
from infra.ledger.ledger import Ledger
from infra.ledger.schema import LedgerUnreadable, bucket_of
from infra.storage.storage import Storage

IDS = sorted(hashlib.sha256(str(n).encode()).hexdigest() for n in range(8))
BUCKETS = 2


def live(ledger, ids, token, folder):
    """A run that finds and judges pictures."""
    ledger.append_inventory([FileRow(path=f"{folder}/{i[:8]}.jpg", image_id=i, bytes=9) for i in ids], f"run-{token}")
    for bucket in range(BUCKETS):
        rows = [
            Event(image_id=i, state="done", outcome="restored", reason_code="ok", stage_digest="D", metrics={"q": 0.5})
            for i in ids
            if bucket_of(i, BUCKETS) == bucket
        ]
        ledger.append_events(rows, run_id=f"run-{token}", token=token, stage="commit", bucket=bucket)


@pytest.fixture
def ledger(tmp_path):
    """Two snapshots, segments that are merged, and some that are newer than all that."""
    made = Ledger.open(Storage(tmp_path / "ws"), buckets=BUCKETS)
    for token, folder in enumerate("abc", 1):
        live(made, IDS, token, folder)
        made.fold()
    clean(made, Policy())
    live(made, IDS[::2], 4, "d")
    return made


def answers(ledger):
    return ledger.files().drop_columns(["seen"]).to_pylist(), ledger.latest().to_pylist(), ledger.plan("D").to_pylist()


def parts_of(ledger):
    """Every file, by what it is."""
    folders = ("inventory", "events", "snapshot")
    paths = [info.path for folder in folders for info in ledger.storage.walk(folder)]
    holdings = ledger.holdings()
    fresh = {segment.path for segment in holdings.fresh}
    return {"fresh": fresh, "kept twice": set(paths) - fresh}


def flip(ledger, path, bit):
    place = ledger.storage.local_path(path)
    data = bytearray(place.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    place.unlink()  # a snapshot's file may be linked from the one before
    place.write_bytes(data)


def test_every_flipped_bit_in_every_file_is_noticed_and_named(ledger):
    assert list(damaged_files(ledger.storage)) == []
    rng = random.Random(1)
    for path in sorted(set().union(*parts_of(ledger).values())):
        whole = ledger.storage.read_bytes(path)
        for bit in rng.sample(range(len(whole) * 8), 12):
            flip(ledger, path, bit)
            found = list(damaged_files(ledger.storage))
            harmless = path.endswith("json") and _says_the_same(whole, ledger.storage.read_bytes(path))
            assert found == [path] or harmless, (path, bit)
            ledger.storage.local_path(path).write_bytes(whole)


def _says_the_same(one, other):
    """The name of the checksum was hit, or white space: nothing else that is read differs."""
    try:
        before, now = json.loads(one), json.loads(other)
    except ValueError:
        return False
    return all(now.get(name) == value for name, value in before.items() if name != "crc32")


def test_what_is_kept_twice_is_set_aside_and_every_answer_stays(ledger, tmp_path):
    before = answers(ledger)
    for n, path in enumerate(sorted(parts_of(ledger)["kept twice"])):
        copy = Storage(tmp_path / f"copy-{n}")
        shutil.copytree(ledger.storage.local_path(), copy.local_path())
        damaged = Ledger.open(copy, create=False)
        flip(damaged, path, 8 * (copy.size(path) // 2))
        assert set_aside_damaged(copy, history=True) == [path]
        assert copy.exists(f"damaged/{path}")
        assert answers(damaged) == before, path
        damaged.fold()
        assert answers(damaged) == before, path
        assert list(damaged_files(copy)) == []


def test_all_snapshots_may_go_and_every_row_is_still_there(ledger):
    before = answers(ledger)
    for info in list(ledger.storage.walk("snapshot")):
        if info.path.endswith("_COMMIT.json"):
            ledger.storage.write_atomic(info.path, b"{")
    with pytest.raises(LedgerUnreadable, match=r"_COMMIT.json .*mpsr repair"):
        ledger.files()
    assert len(set_aside_damaged(ledger.storage)) == 2
    assert answers(ledger) == before


def test_a_newer_segment_is_set_aside_and_its_rows_are_to_be_made_again(ledger):
    inventory, commit = sorted(parts_of(ledger)["fresh"], key=lambda path: path.startswith("events"))[:2]
    flip(ledger, inventory, 400)
    assert set_aside_damaged(ledger.storage) == [inventory]
    assert {row["path"][0] for row in ledger.files().to_pylist()} == {"a", "b", "c"}
    flip(ledger, commit, 400)
    assert set_aside_damaged(ledger.storage) == [commit]
    assert set_aside_damaged(ledger.storage) == []
    assert ledger.latest().num_rows == len(IDS)


def test_who_asks_a_damaged_ledger_is_told_which_file_and_what_to_do(ledger):
    path = ledger.holdings().snapshot_of("commit", {0})[0]
    whole = ledger.storage.read_bytes(path)
    ledger.storage.local_path(path).unlink()
    Path(ledger.storage.local_path(path)).write_bytes(whole[:50] + bytes(len(whole) - 50))
    with pytest.raises(LedgerUnreadable, match=rf"{path} in .* is not what was written.*mpsr verify"):
        ledger.counts()


def test_a_ledger_of_an_earlier_version_has_no_checksums_and_is_whole(ledger, tmp_path):
    """Names without checksums, as every version before this one wrote them."""
    for info in list(ledger.storage.walk()):
        place = ledger.storage.local_path(info.path)
        if info.path.startswith(("inventory", "events")):
            place.rename(place.with_name(place.name[: -len(".12345678.parquet")] + ".parquet"))
    for version in ("v=000002", "v=000003", "v=000004"):
        shutil.rmtree(ledger.storage.local_path(f"snapshot/{version}"), ignore_errors=True)
    assert list(damaged_files(ledger.storage)) == []
    assert set_aside_damaged(ledger.storage) == []
    assert ledger.latest().num_rows == len(IDS)
    (young, *_) = sorted(ledger.holdings().fresh, key=lambda segment: -segment.number)
    ledger.storage.local_path(young.path).write_bytes(b"PAR1")
    assert list(damaged_files(ledger.storage)) == [young.path]
