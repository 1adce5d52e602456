"""The scan: one row per file, nothing read twice, and every kind of trouble named."""

import hashlib
import io
import os

import numpy as np
import pytest
from PIL import Image

from infra.ledger import FileRow, unreadable_id
from infra.storage.base import StorageMissingError
from infra.storage.storage import Storage
from tasks.archive import books
from tasks.archive.scan import matcher, scan_archive
from tasks.pictures.picture import Limits


def png(seed=0, size=(30, 20)):
    pixels = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


@pytest.fixture
def archive(tmp_path):
    files = {
        "a.png": png(1),
        "1936/b.JPG": png(2),
        "1936/copy of b.png": png(2),
        "1936/notes.txt": b"nothing to see",
        "1936/empty.jpg": b"",
        "x/cut.jpg": b"\xff\xd8\xff",
    }
    for name, data in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    return tmp_path


class Counting(Storage):
    """A storage that remembers which files were opened."""

    def __init__(self, url):
        super().__init__(url)
        self.opened = []

    def open_read(self, path):
        self.opened.append(path)
        return super().open_read(path)


def rows_of(folder, known=None, **options):
    return {row.path: row for row in scan_archive(Storage(folder), known or {}, **options)}


def test_every_file_gets_one_row_that_says_what_it_is(archive):
    rows = rows_of(archive)
    problems = {path: row.problem for path, row in rows.items()}
    assert problems == {
        "1936/b.JPG": None,
        "1936/copy of b.png": None,
        "1936/empty.jpg": "empty_file",
        "1936/notes.txt": "not_an_image",
        "a.png": None,
        "x/cut.jpg": "corrupt",
    }
    picture = rows["1936/b.JPG"]
    assert picture.image_id == hashlib.sha256(png(2)).hexdigest() == rows["1936/copy of b.png"].image_id
    assert (picture.format, picture.width, picture.height, picture.mode) == ("PNG", 30, 20, "RGB")
    assert picture.bytes == len(png(2))
    assert all(row.problem in books.REASONS for row in rows.values() if row.problem)
    assert all(row.problem_text for row in rows.values() if row.problem)


def test_an_unchanged_archive_is_not_opened_and_yields_nothing(archive):
    known = rows_of(archive)
    storage = Counting(archive)
    assert list(scan_archive(storage, known)) == []
    assert storage.opened == []


def test_new_changed_and_vanished_files_are_noticed(archive):
    known = rows_of(archive)
    (archive / "a.png").write_bytes(png(9))
    os.utime(archive / "a.png", ns=(1, 1))
    (archive / "new.png").write_bytes(png(3))
    (archive / "1936" / "b.JPG").unlink()
    news = rows_of(archive, known)
    assert set(news) == {"a.png", "new.png", "1936/b.JPG"}
    assert news["a.png"].image_id == hashlib.sha256(png(9)).hexdigest()
    assert news["1936/b.JPG"].present is False
    assert news["1936/b.JPG"].image_id == known["1936/b.JPG"].image_id
    assert rows_of(archive, known | news) == {}


def test_a_file_that_comes_back_is_present_again(archive):
    known = rows_of(archive)
    data, stat = (archive / "a.png").read_bytes(), (archive / "a.png").stat()
    (archive / "a.png").unlink()
    known |= rows_of(archive, known)
    assert known["a.png"].present is False
    (archive / "a.png").write_bytes(data)
    os.utime(archive / "a.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert rows_of(archive, known)["a.png"].present is True


def test_excluded_files_are_counted_but_not_opened(archive):
    storage = Counting(archive)
    rows = {row.path: row for row in scan_archive(storage, {}, include=["1936"], exclude=["*.txt"])}
    assert {path for path, row in rows.items() if row.problem == "excluded"} == {
        "1936/notes.txt",
        "a.png",
        "x/cut.jpg",
    }
    assert len(rows) == 6
    assert set(storage.opened) == {"1936/b.JPG", "1936/copy of b.png", "1936/empty.jpg"}
    later = rows_of(archive, rows)
    assert later["a.png"].problem is None, "excluded once is not excluded for ever"


def test_a_raised_limit_is_noticed_without_hashing_again(archive):
    known = rows_of(archive, limits=Limits(max_pixels=100))
    assert known["a.png"].problem == "too_large"
    assert known["a.png"].width == 30
    assert rows_of(archive, known, limits=Limits(max_pixels=100)) == {}
    assert rows_of(archive, known)["a.png"].problem is None


@pytest.mark.skipif(os.name != "posix" or os.getuid() == 0, reason="root may read everything")
def test_forbidden_file_and_folder_have_a_reason(archive):
    known = rows_of(archive)
    (archive / "a.png").chmod(0)
    os.utime(archive / "a.png", ns=(1, 1))
    (archive / "1936").chmod(0)
    try:
        rows = rows_of(archive, known)
    finally:
        (archive / "1936").chmod(0o755)
    assert rows["a.png"].problem == rows["1936"].problem == "unreadable"
    assert set(rows) == {"a.png", "1936"}, "files of a folder that cannot be listed are not gone"


class Refusing(Storage):
    """A storage that cannot read one file, and loses a second between the walk and the look."""

    def open_read(self, path):
        if path == "a.png":
            raise PermissionError("no permission")
        if path == "x/cut.jpg":
            raise StorageMissingError("nothing is there")
        return super().open_read(path)


def test_unreadable_file_stands_for_its_path_and_is_tried_again(archive):
    rows = {row.path: row for row in scan_archive(Refusing(archive), {})}
    assert rows["a.png"].problem == "unreadable"
    assert rows["a.png"].image_id == unreadable_id("a.png")
    assert "x/cut.jpg" not in rows
    assert rows_of(archive, rows)["a.png"].problem is None


class Growing(Storage):
    """A storage whose files have grown since they were listed."""

    def open_read(self, path):
        return io.BytesIO(super().open_read(path).read() + b"more")


def test_a_file_still_being_written_is_left_for_the_next_run(archive):
    rows = {row.path: row for row in scan_archive(Growing(archive), {})}
    assert rows["a.png"].problem == "changed_while_running"
    assert rows_of(archive, rows)["a.png"].problem is None


def test_a_file_too_large_for_memory_is_streamed(archive, monkeypatch):
    monkeypatch.setattr("tasks.archive.scan.IN_MEMORY", 10)
    assert rows_of(archive)["a.png"].image_id == hashlib.sha256(png(1)).hexdigest()


def test_symlink_loop_and_broken_link_are_files_with_a_problem(archive):
    (archive / "1936" / "up").symlink_to(archive, target_is_directory=True)
    (archive / "dangling.png").symlink_to(archive / "nowhere.png")
    rows = rows_of(archive)
    assert rows["1936/up"].problem == "symlink_loop"
    assert rows["dangling.png"].problem == "broken_link"


def test_names_that_are_not_utf8_and_255_bytes_long(archive):
    name = b"caf\xe9 100%.png"
    (archive / os.fsdecode(name)).write_bytes(png(5))
    (archive / ("n" * 251 + ".png")).write_bytes(png(6))
    rows = rows_of(archive)
    assert rows["caf%E9 100%25.png"].problem is None
    assert rows["n" * 251 + ".png"].problem is None


def test_missing_source_is_an_error_not_an_empty_archive(tmp_path):
    known = {"a.png": FileRow(path="a.png", image_id=unreadable_id("a.png"))}
    with pytest.raises(StorageMissingError):
        list(scan_archive(Storage(tmp_path / "nowhere"), known))


@pytest.mark.parametrize(
    ("glob", "path", "matches"),
    [
        ("*.jpg", "1936/a.JPG", True),
        ("*.jpg", "a.jpeg", False),
        ("1936", "1936/deep/a.png", True),
        ("1936/", "x/1936/a.png", True),
        ("1936/*", "1936/a.png", True),
        ("1936/*.png", "1936/deep/a.png", False),
        ("1936/**", "1936/deep/a.png", True),
        ("**/deep/*.png", "deep/a.png", True),
        ("a?.png", "ab.png", True),
        ("a?.png", "a/.png", False),
        ("[x].png", "[x].png", True),
        ("", "a.png", False),
    ],
)
def test_globs(glob, path, matches):
    assert matcher([glob])(path) is matches


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("a.xmp", "sidecar"),
        ("a.png.xmp", "sidecar"),
        ("a.AAE", "sidecar"),
        ("a.png.json", "sidecar"),
        ("a.png.supplemental-metadata.json", "sidecar"),
        ("settings.json", "not_an_image"),
        ("notes.txt", "not_an_image"),
    ],
)
def test_what_goes_with_a_picture_is_told_from_what_is_none(archive, name, problem):
    (archive / name).write_text("<x/>")
    assert rows_of(archive)[name].problem == problem
