"""A result goes where its picture went, and never stays under a name that means another picture now."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace

import pytest

from flows.gate.moves import deliver_kept
from flows.restoration.delivered import deliver, make_way, sweep
from flows.session.session import Session
from infra.ledger.lease import Lease
from infra.ledger.ledger import Ledger
from infra.ledger.rows import Event, FileRow
from infra.ledger.schema import COMMIT
from infra.storage.storage import Storage
from tasks.archive.books import VerdictDetail


def sha(text):
    return hashlib.sha256(text.encode()).hexdigest()


def verdict(name, path):
    made = {"output_uri": f"restored/{path}", "output_sha256": sha(f"restored {name}")}
    return Event(image_id=sha(name), state="done", reason_code="ok", outcome="restored", **made)


@pytest.fixture
def storage(tmp_path):
    """The restored faces of A, B and C, at 1.jpg to 3.jpg."""
    place = Storage(tmp_path / "ws")
    for number, name in enumerate("ABC", 1):
        place.write_atomic(f"restored/{number}.jpg", f"restored {name}".encode())
    return place


def shown(storage):
    return {info.path.removeprefix("restored/"): storage.read_bytes(info.path).decode() for info in files(storage)}


def files(storage):
    return [info for info in storage.walk("restored") if not info.problem]


def now_at(path, name, before):
    return FileRow(path=path, image_id=sha(before)), FileRow(path=path, image_id=sha(name))


def test_results_follow_pictures_that_are_renumbered(storage):
    """A scan was put in front: every name means another picture than before."""
    make_way(storage, [now_at("1.jpg", "N", "A"), now_at("2.jpg", "A", "B"), now_at("3.jpg", "B", "C")], {})
    assert shown(storage) == {}, "until they are delivered nobody stands under another's name"
    for name, old, new in (("A", "1.jpg", "2.jpg"), ("B", "2.jpg", "3.jpg"), ("C", "3.jpg", "4.jpg")):
        assert deliver(storage, [new], verdict(name, old))
    assert shown(storage) == {"2.jpg": "restored A", "3.jpg": "restored B", "4.jpg": "restored C"}


def test_a_file_that_is_the_present_pictures_result_already_stays(storage):
    """A night without the network drive: every file was unreadable, then is what it had been."""
    unreadable = FileRow(path="1.jpg", image_id="0" * 64)
    back = FileRow(path="1.jpg", image_id=sha("A"))
    make_way(storage, [(unreadable, back)], {sha("A"): sha("restored A")})
    assert shown(storage)["1.jpg"] == "restored A"


def test_a_copy_that_is_not_the_result_is_never_delivered(storage):
    storage.write_atomic("restored/1.jpg", b"restored by another recipe")
    assert not deliver(storage, ["1.jpg", "9.jpg"], verdict("A", "1.jpg"))
    assert not deliver(storage, ["1.jpg"], replace(verdict("A", "1.jpg"), output_sha256=None))
    assert "9.jpg" not in shown(storage)


def test_every_path_of_a_picture_gets_its_result_from_one_that_has_it(storage):
    assert deliver(storage, ["7.jpg", "1.jpg", "8.jpg"], verdict("A", "gone.jpg"))
    assert {shown(storage)[f"{n}.jpg"] for n in (1, 7, 8)} == {"restored A"}


def test_kept_results_follow_renamed_pictures_and_lost_ones_are_restored_anew(tmp_path, storage):
    ledger, digest = Ledger.open(storage, buckets=1), "d" * 64
    pictures = {}
    for number, name in enumerate("ABC", 1):
        said = VerdictDetail(outcome="restored", kept=True, made_by="e" * 64, made_in="run-1")
        told = replace(verdict(name, f"{number}.jpg"), stage_digest=digest, detail=said.to_detail())
        ledger.append_events([told], run_id="run-1", token=1, stage=COMMIT, bucket=0)
        pictures[sha(name)] = [f"{number + 1}.jpg"]
    make_way(storage, [now_at("2.jpg", "A", "B"), now_at("3.jpg", "B", "C")], {})
    storage.delete(f"displaced/{sha('C')}")
    with Lease.acquire(storage, owner="night") as lease:
        delivered = deliver_kept(Session("run-2", time.time(), storage, lease, ledger), pictures, digest)
    assert delivered == [sha("A"), sha("B")]
    assert shown(storage) == {"1.jpg": "restored A", "2.jpg": "restored A", "3.jpg": "restored B"}


def test_what_writes_left_that_were_cut_short_is_swept_away_and_nothing_else(storage):
    storage.write_atomic("restored/a/.mpsr-0011223344556677.tmp", b"half")
    storage.write_atomic("restored/a/.mpsr-note.txt", b"somebody's")
    sweep(storage)
    assert set(shown(storage)) == {"1.jpg", "2.jpg", "3.jpg", "a/.mpsr-note.txt"}
