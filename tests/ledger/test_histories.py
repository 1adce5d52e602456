"""The ledger image by image: every image once, with its files and last rows, whatever the groups and the folds."""

import hashlib

import pytest

from infra.ledger import sql
from infra.ledger.histories import Histories
from infra.ledger.ledger import Ledger
from infra.ledger.rows import Event, FileRow
from infra.ledger.schema import bucket_of
from infra.storage.storage import Storage

BUCKETS = 8


def image(n):
    return hashlib.sha256(str(n).encode()).hexdigest()


def append(ledger, events, stage, run_id="r1"):
    for bucket in range(BUCKETS):
        here = [event for event in events if bucket_of(event.image_id, BUCKETS) == bucket]
        if here:
            ledger.append_events(here, run_id=run_id, token=1, stage=stage, bucket=bucket)


@pytest.fixture
def ledger(tmp_path):
    """Forty images, every tenth with a copy and every fifth rejected; one is gone, one broken, one not reached."""
    ledger = Ledger.open(Storage(tmp_path), buckets=BUCKETS)
    files = [FileRow(path=f"{n:02d}.jpg", image_id=image(n)) for n in range(40)]
    files += [FileRow(path=f"copy {n:02d}.jpg", image_id=image(n)) for n in range(0, 40, 10)]
    files.append(FileRow(path="gone.jpg", image_id=image("gone"), present=False))
    files.append(FileRow(path="broken.jpg", image_id=image("broken"), problem="corrupt"))
    files.append(FileRow(path="later.jpg", image_id=image("later")))
    ledger.append_inventory(files, "r1")
    append(ledger, [Event(image_id=image(n), face=f, state="done") for n in range(40) for f in (0, 1)], "restore")
    outcomes = {image(n): "restored" if n % 5 else "rejected_identity" for n in range(40)} | {image("gone"): "restored"}
    verdicts = [
        Event(image_id=i, state="done", outcome=outcome, detail={"outcome": outcome, "faces": {outcome: 2}})
        for i, outcome in outcomes.items()
    ]
    append(ledger, verdicts, "commit")
    return ledger


@pytest.mark.parametrize("group_bytes", [1, sql._GROUP_BYTES])
@pytest.mark.parametrize("folded", [False, True])
def test_every_image_comes_once_with_its_files_and_rows(ledger, monkeypatch, group_bytes, folded):
    monkeypatch.setattr(sql, "_GROUP_BYTES", group_bytes)
    if folded:
        ledger.fold()
    found = {history.image_id: history for history in Histories(ledger, "false")}
    assert list(found) == sorted(found)
    assert set(found) == {*(image(n) for n in range(40)), image("broken"), image("later")}
    first = found[image(0)]
    assert [file.path for file in first.files] == ["00.jpg", "copy 00.jpg"]
    assert [(event.stage, event.face) for event in first.events] == [("commit", -1), ("restore", 0), ("restore", 1)]
    assert first.verdict.outcome == "rejected_identity"
    assert found[image("later")].verdict is None
    assert found[image("broken")].events == ()


def test_a_later_row_takes_the_place_of_an_earlier_one(ledger):
    ledger.fold()
    append(ledger, [Event(image_id=image(3), face=0, state="quarantined")], "restore", "r2")
    (history,) = (h for h in Histories(ledger, "false") if h.image_id == image(3))
    assert [event.state for event in history.events if event.face == 0] == ["quarantined"]


def test_beyond_the_sample_come_those_that_are_asked_for(ledger, monkeypatch):
    monkeypatch.setattr(sql, "_GROUP_BYTES", 1)
    condition = "problem IS NOT NULL OR outcome = ?"
    histories = list(Histories(ledger, condition, ["rejected_identity"], sample=12))
    sampled = [history for history in histories if history.sampled]
    assert 12 <= len(sampled) < 30
    beyond = [history for history in histories if not history.sampled]
    assert all(history.files[0].problem or history.verdict.outcome == "rejected_identity" for history in beyond)
    rejected = {image(n) for n in range(0, 40, 5)}
    assert rejected <= {history.image_id for history in histories}
    assert all(len(history.events) == 3 for history in beyond if history.verdict)


def test_it_can_be_gone_through_again_and_an_empty_ledger_has_nothing(ledger, tmp_path):
    histories = Histories(ledger, "false")
    assert list(histories) == list(histories)
    assert list(Histories(Ledger.open(Storage(tmp_path / "empty")), "false")) == []


@pytest.mark.parametrize("group_bytes", [1, sql._GROUP_BYTES])
def test_faces_count_once_per_present_image(ledger, monkeypatch, group_bytes):
    monkeypatch.setattr(sql, "_GROUP_BYTES", group_bytes)
    assert ledger.faces() == {"restored": 64, "rejected_identity": 16}
    assert Ledger.open(ledger.storage, create=False).books({"corrupt": "quarantined"}).gone == 1
