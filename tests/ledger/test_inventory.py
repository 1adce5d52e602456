"""Known files: the ledger's inventory as the scan yielded it, path by path, without holding it as records."""

import dataclasses

import pytest

from infra.ledger import FileRow, known_files, unreadable_id
from infra.ledger.ledger import Ledger
from infra.storage.storage import Storage
from tasks.archive.scan import scan_archive


def row(path, **columns):
    return FileRow(path=path, image_id=unreadable_id(path), bytes=3, mtime_ns=5, **columns)


ROWS = [
    row("b.png", format="PNG", width=3, height=2, mode="RGB"),
    row("a%FF", problem="corrupt", problem_text="cut"),
    row("c"),
]


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger.open(Storage(tmp_path / "ws"), buckets=4)
    ledger.append_inventory(ROWS, "one")
    ledger.append_inventory([dataclasses.replace(ROWS[2], present=False)], "two")
    ledger.fold()
    return ledger


def test_each_path_has_the_row_that_the_scan_yielded_last(ledger):
    known = known_files(ledger)
    expected = {each.path: each for each in ROWS} | {"c": dataclasses.replace(ROWS[2], present=False)}
    assert dict(known.items()) == {path: known[path] for path in known} == expected
    assert list(known) == sorted(expected)
    assert len(known) == 3


@pytest.mark.parametrize("path", ["", "a", "b", "b.pngx", "zz"])
def test_a_path_that_was_never_seen_is_not_there(ledger, path):
    known = known_files(ledger)
    assert path not in known
    assert known.get(path) is None


def test_any_present_tells_whether_the_last_scan_found_a_file(ledger):
    assert known_files(ledger).any_present
    ledger.append_inventory([dataclasses.replace(each, present=False) for each in ROWS], "three")
    assert not known_files(ledger).any_present


def test_an_empty_ledger_knows_nothing(tmp_path):
    known = known_files(Ledger.open(Storage(tmp_path), buckets=1))
    assert (len(known), known.any_present, known.get("a"), list(known.items())) == (0, False, None, [])


def test_what_the_ledger_adds_makes_no_file_new(tmp_path):
    archive = tmp_path / "archive"
    archive.mkdir()
    (archive / "a.txt").write_bytes(b"letter")
    ledger = Ledger.open(Storage(tmp_path / "ws"), buckets=1)
    ledger.append_inventory(list(scan_archive(Storage(archive), known_files(ledger))), "one")
    ledger.fold()
    assert list(scan_archive(Storage(archive), known_files(ledger))) == []
    (archive / "a.txt").unlink()
    [gone] = scan_archive(Storage(archive), known_files(ledger))
    assert (gone.path, gone.present, gone.seq, gone.since_seq) == ("a.txt", False, 0, None)
