"""Whole files or nothing, on local disks and on an S3 server; names, loops, refusals and full disks."""

from __future__ import annotations

import errno
import os
import pickle
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from places import ROOT
from s3_server import fresh_bucket, s3_options

from infra.storage.base import (
    AddressUnknownError,
    FileInfo,
    PathRefusedError,
    StorageDeniedError,
    StorageError,
    StorageExistsError,
    StorageFullError,
    StorageMissingError,
    decode_name,
    encode_name,
)
from infra.storage.storage import Storage


@pytest.fixture(scope="module")
def s3():
    with s3_options() as options:
        yield options


@pytest.fixture(params=["local", "s3"])
def storage(request, tmp_path):
    if request.param == "local":
        return Storage(tmp_path / "work space")
    return fresh_bucket(request.getfixturevalue("s3"))


def test_what_is_written_is_read_and_replaced(storage):
    storage.write_atomic("a/b.bin", b"first")
    storage.write_atomic("a/b.bin", memoryview(b"second"))
    assert storage.read_bytes("a/b.bin") == b"second"
    assert (storage.size("a/b.bin"), storage.exists("a/b.bin"), storage.exists("a/c")) == (6, True, False)
    with storage.open_read("a/b.bin") as file:
        file.seek(2)
        assert file.read() == b"cond"


def test_of_many_creators_one_wins_and_nothing_is_overwritten(storage):
    def attempt(number: int) -> bool:
        try:
            storage.create_new("leases/1", str(number).encode())
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        won = [number for number, did in enumerate(pool.map(attempt, range(12))) if did]
    assert len(won) == 1
    assert storage.read_bytes("leases/1") == str(won[0]).encode()
    with pytest.raises(StorageExistsError, match="leases/1"):
        storage.create_new("leases/1", b"late")


def test_walk_is_sorted_complete_and_passes_over_litter(storage):
    for path in ("b/2.jpg", "b/1.jpg", "a.jpg", "c/d/e.jpg", "b/Thumbs.db", "c/.DS_Store", "@eaDir/x.jpg", "b/._1.jpg"):
        storage.write_atomic(path, b"xy")
    found = list(storage.walk())
    assert [info.path for info in found] == ["a.jpg", "b/1.jpg", "b/2.jpg", "c/d/e.jpg"]
    assert {(info.bytes, info.problem) for info in found} == {(2, None)}
    assert all(info.mtime_ns and info.mtime_ns > 1_600_000_000 * 10**9 for info in found)
    assert [info.path for info in storage.walk("c")] == ["c/d/e.jpg"]
    with pytest.raises(StorageMissingError):
        list(storage.walk("nowhere"))


def test_deleting_twice_is_no_error_and_the_root_is_refused(storage):
    for path in ("t/1", "t/u/2", "v"):
        storage.write_atomic(path, b"x")
    storage.delete("v")
    storage.delete("v")
    storage.delete_tree("t")
    storage.delete_tree("t")
    assert not storage.exists("t/u/2")
    with pytest.raises(PathRefusedError):
        storage.delete_tree("")


def test_copy_gives_a_second_name(storage):
    storage.write_atomic("one", b"same")
    storage.copy("one", "far/two")
    storage.delete("one")
    assert storage.read_bytes("far/two") == b"same"


def test_a_pickled_storage_works_the_same(storage):
    storage.write_atomic("x", b"1")
    twin = pickle.loads(pickle.dumps(storage))
    assert twin.read_bytes("x") == b"1"


def test_missing_files_are_named(storage):
    with pytest.raises(StorageMissingError, match=r"a/gone\.jpg: nothing is there"):
        storage.read_bytes("a/gone.jpg")
    with pytest.raises(FileNotFoundError):
        storage.size("a/gone.jpg")


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "a//b", "./a", "a/", "a/..", "x\0y"])
def test_paths_that_leave_the_root_are_refused(storage, path):
    for attempt in (
        lambda: storage.write_atomic(path, b""),
        lambda: storage.read_bytes(path),
        lambda: storage.delete_tree(path),
        lambda: list(storage.walk(path)),
    ):
        with pytest.raises(PathRefusedError, match="below the root"):
            attempt()


def test_an_object_key_that_climbs_is_reported_not_followed(s3):
    storage = fresh_bucket(s3)
    storage.write_atomic("good", b"x")
    storage.filesystem.pipe_file(storage.full_path("a").removeprefix("s3://") + "/../evil", b"x")
    problems = {info.path: info.problem for info in storage.walk()}
    assert problems == {"good": None, "a/../evil": "unreadable"}


def test_keys_with_nothing_between_two_slashes_are_reported(s3):
    storage = fresh_bucket(s3)
    storage.write_atomic("p/good", b"x")
    top = storage.full_path("p").removeprefix("s3://")
    storage.filesystem.pipe_file(f"{top}//x", b"x")
    storage.filesystem.pipe_file(f"{top}/marker/", b"")
    assert {info.path: info.problem for info in storage.walk()} == {"p//": "unreadable", "p/good": None}


def test_s3_files_carry_their_etag(s3):
    storage = fresh_bucket(s3)
    storage.write_atomic("x", b"1")
    (listed,) = storage.walk()
    assert listed.etag == "c4ca4238a0b923820dcc509a6f75849b"  # md5 of "1"
    assert storage.info("x").etag == listed.etag
    assert storage.free_bytes() is None


def test_messages_do_not_show_credentials():
    storage = Storage("s3://user:secret@bucket/x", {"secret": "hidden"})
    assert "secret" not in repr(storage)
    assert "hidden" not in repr(storage)


def test_an_unreachable_store_is_told_plainly():
    storage = Storage(
        "s3://bucket/x",
        {
            "key": "a",
            "secret": "b",
            "endpoint_url": "http://127.0.0.1:9",
            "config_kwargs": {"connect_timeout": 1, "retries": {"max_attempts": 0}},
        },
    )
    with pytest.raises(StorageError, match="cannot read y"):
        storage.read_bytes("y")


@pytest.mark.parametrize(
    "name", ["plain.jpg", "100%.jpg", "%41", "é ü 漢", "\udcff\udcfe.jpg", "a%\udce9/b", "new\nline", "\U0001f600"]
)
def test_names_survive_encoding(name):
    encoded = encode_name(name)
    assert decode_name(encoded) == name
    encoded.encode("utf-8")
    assert encode_name(encoded.replace("%", "")) == encoded.replace("%", "")


def test_encoding_is_percent_and_bytes_only():
    assert encode_name("50% \udce9é") == "50%25 %E9é"


def test_names_of_255_bytes_and_names_that_are_no_utf8(tmp_path):
    storage = Storage(tmp_path)
    for name in ("n" * 255, "é" * 127, "\udce9t\udce9.jpg"):
        storage.write_atomic(f"d/{name}", b"x")
        storage.create_new(f"e/{name}", b"y")
        assert storage.read_bytes(f"d/{name}") == b"x"
    assert {info.ledger_path for info in storage.walk("e")} == {f"e/{n}" for n in ("n" * 255, "é" * 127, "%E9t%E9.jpg")}
    with pytest.raises(StorageError, match="name too long"):
        storage.write_atomic("n" * 256, b"x")


def test_urls_of_local_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for url in (str(tmp_path / "a b"), f"file://{tmp_path}/a%20b", "a b", Path("a b")):
        storage = Storage(url)
        assert storage.is_local
        assert storage.local_path("x") == tmp_path / "a b" / "x"
    assert Storage(tmp_path / "not" / "there").free_bytes() > 0


def test_link_loops_and_odd_files_are_reported(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.jpg").write_bytes(b"1")
    (tmp_path / "in" / "up").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "twin").symlink_to("in/x.jpg")
    os.mkfifo(tmp_path / "pipe")
    found = {info.path: info.problem for info in Storage(tmp_path).walk()}
    assert found == {
        "broken": "broken_link",
        "in/up": "symlink_loop",
        "in/x.jpg": None,
        "pipe": "unreadable",
        "self": "symlink_loop",
        "twin": None,
    }


def test_a_link_that_leads_to_the_results_is_not_followed(tmp_path):
    archive, results = tmp_path / "archive", tmp_path / "out" / "results"
    for folder in (archive / "1936", results / "restored"):
        folder.mkdir(parents=True)
        (folder / "x.jpg").write_bytes(b"1")
    (archive / "made").symlink_to(results / "restored")
    (archive / "above").symlink_to(tmp_path / "out")
    (archive / "year").symlink_to(archive / "1936")
    walk = pickle.loads(pickle.dumps(Storage(archive, apart=Storage(results)))).walk()
    assert {info.path: info.problem for info in walk} == {
        "1936/x.jpg": None,
        "above/results": "symlink_loop",
        "made": "symlink_loop",
        "year/x.jpg": None,
    }


@pytest.fixture
def originals(tmp_path):
    folder = tmp_path / "archive" / "1936"
    folder.mkdir(parents=True)
    (folder / "x.jpg").write_bytes(b"original")
    yield folder
    assert [path.name for path in folder.iterdir()] == ["x.jpg"]
    assert (folder / "x.jpg").read_bytes() == b"original"


CHANGES = {
    "write": lambda storage: storage.write_atomic("restored/1936/x.jpg", b"restored"),
    "write anew": lambda storage: storage.write_atomic("restored/1936/deep/y.jpg", b"restored"),
    "create": lambda storage: storage.create_new("restored/1936/y.jpg", b"restored"),
    "copy there": lambda storage: storage.copy("result", "restored/1936/y.jpg"),
    "copy from there": lambda storage: storage.copy("restored/1936/x.jpg", "twin"),
    "delete": lambda storage: storage.delete("restored/1936/x.jpg"),
    "delete a tree": lambda storage: storage.delete_tree("restored/1936"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("linked", ["restored", "restored/1936"])
def test_nothing_is_changed_through_a_link_whenever_it_appeared(linked, change, originals, tmp_path):
    storage = Storage(tmp_path / "out")
    storage.write_atomic("result", b"1")
    storage.write_atomic("restored/1936/old.jpg", b"2")
    shutil.rmtree(tmp_path / "out" / linked)  # from here on the storage is in use
    (tmp_path / "out" / linked).symlink_to(originals if linked.endswith("1936") else originals.parent)
    with pytest.raises(PathRefusedError, match=rf"through {linked}: it is a link to .*archive"):
        change(storage)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_nothing_is_changed_where_the_root_itself_leads_to_originals(change, originals, tmp_path):
    workspace = Storage(tmp_path / "out", apart=Storage(tmp_path / "archive"))
    workspace.write_atomic("result", b"1")
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").symlink_to(originals.parent)
    with pytest.raises(PathRefusedError, match=r"link to .*archive"):
        change(workspace)
    with pytest.raises(PathRefusedError, match=r"archive, which is only read"):
        change(pickle.loads(pickle.dumps(workspace)))  # as a worker process that starts only now


def test_a_file_that_is_a_link_is_replaced_and_not_what_it_leads_to(originals, tmp_path):
    storage = Storage(tmp_path / "out")
    storage.write_atomic("restored/y.jpg", b"1")
    for name in ("replaced.jpg", "deleted.jpg", "copied.jpg"):
        (tmp_path / "out" / "restored" / name).symlink_to(originals / "x.jpg")
    storage.write_atomic("restored/replaced.jpg", b"restored")
    storage.delete("restored/deleted.jpg")
    storage.copy("restored/copied.jpg", "twin")
    storage.write_atomic("twin", b"restored")
    assert not (tmp_path / "out/restored/replaced.jpg").is_symlink()


def test_a_root_that_is_a_link_from_the_start_is_somebodys_wish(tmp_path):
    (tmp_path / "large disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "large disk")
    Storage(tmp_path / "out").write_atomic("restored/x", b"1")
    assert (tmp_path / "large disk/restored/x").read_bytes() == b"1"


def test_a_file_that_vanishes_during_the_walk_is_no_problem(tmp_path):
    for name in "abc":
        (tmp_path / name).write_bytes(b"1")
    walk = Storage(tmp_path).walk()
    assert next(walk).path == "a"
    (tmp_path / "b").unlink()
    assert [(info.path, info.problem) for info in walk] == [("c", None)]


def test_forbidden_folders_are_reported_and_the_walk_goes_on():
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    (folder / "closed").mkdir()
    (folder / "z.jpg").write_bytes(b"1")
    (folder / "closed").chmod(0)
    identity = os.geteuid()
    try:
        if identity == 0:
            os.seteuid(65534)
        found = {info.path: info for info in Storage(folder).walk()}
        with pytest.raises(StorageDeniedError, match="no permission"):
            Storage(folder).write_atomic("closed/x", b"1")
    finally:
        os.seteuid(identity)
        (folder / "closed").chmod(0o755)
        shutil.rmtree(folder)
    assert (found["closed"].problem, found["z.jpg"].problem) == ("unreadable", None)
    assert found["closed"].problem_text == "permission denied"


def test_a_very_deep_tree_is_walked(tmp_path):
    top = tmp_path / "d"
    subprocess.run(["mkdir", "-p", str(tmp_path / "/".join("d" * 1_200))], check=True)
    try:
        (tmp_path / "/".join("d" * 1_200) / "x").write_bytes(b"1")
        assert [info.bytes for info in Storage(tmp_path).walk()] == [1]
    finally:
        subprocess.run(["rm", "-rf", str(top)], check=True)  # deeper than pytest's own cleaning can recurse


@pytest.fixture
def little_space():
    """A limit on file size stands for the full disk: the write fails midway in the same way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, little_space):
    storage = Storage(tmp_path)
    storage.write_atomic("out.png", b"old")
    for write in (storage.write_atomic, storage.create_new):
        with pytest.raises(StorageFullError, match=r"free some space"):
            write("out.png", bytes(50_000))
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]
    assert storage.read_bytes("out.png") == b"old"


def wrapped(cause):
    """An error as libraries hand it on: another one, raised from the first."""
    error = RuntimeError("the upload failed")
    error.__cause__ = OSError("could not write")
    error.__cause__.__context__ = cause
    return error


class Answered(Exception):
    """As botocore's ClientError."""

    response = {"Error": {"Code": "XMinioStorageFull"}}  # noqa: RUF012


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("wrap", [lambda cause: cause, wrapped])
def test_a_full_disk_is_one_wherever_it_is_told(number, wrap, tmp_path, monkeypatch):
    error = wrap(OSError(number, os.strerror(number)))
    remote = Storage("memory://full")
    monkeypatch.setattr(type(remote.filesystem), "pipe_file", lambda *_, **__: (_ for _ in ()).throw(error))
    for write in (remote.write_atomic, remote.create_new):
        with pytest.raises(StorageFullError, match=rf"a/x: {os.strerror(number)}; free some space"):
            write("a/x", b"1")
    monkeypatch.setattr("infra.storage.local.os.fsync", lambda _: (_ for _ in ()).throw(OSError(number, "full")))
    with pytest.raises(StorageFullError):
        Storage(tmp_path).write_atomic("x", b"1")
    assert list(tmp_path.iterdir()) == []


def test_a_bucket_over_its_quota_is_full(monkeypatch):
    storage = Storage("memory://quota")
    monkeypatch.setattr(type(storage.filesystem), "pipe_file", lambda *_, **__: (_ for _ in ()).throw(error))
    error = OSError(errno.EIO, "Storage backend has reached its minimum free drive threshold")
    error.__cause__ = Answered()
    with pytest.raises(StorageFullError, match="free some space"):
        storage.write_atomic("x", b"1")


def test_what_fails_after_a_full_disk_is_told_as_what_it_is(tmp_path):
    try:
        raise StorageFullError("full")
    except StorageFullError:
        with pytest.raises(StorageMissingError):
            Storage(tmp_path).read_bytes("x")


def test_a_folder_is_where_files_can_be_looked_for(storage):
    storage.write_atomic("a/x", b"1")
    assert [storage.is_folder(path) for path in ("", "a", "b")] == [True, True, False]
    if storage.is_local:
        assert not storage.is_folder("a/x")


@pytest.mark.parametrize("url", ["zzz://bucket/x", "zzz://me:secret@bucket/x"])
def test_an_address_of_no_known_kind_is_wrong_usage_and_keeps_its_secrets(url):
    with pytest.raises(AddressUnknownError, match="Protocol not known: zzz") as told:
        Storage(url).exists("")
    assert told.value.exit_code == 2
    assert "secret" not in str(told.value)


def test_a_write_cut_short_shows_nothing_and_is_found_as_leftover(tmp_path):
    (tmp_path / "a").mkdir()
    code = (
        "import os, sys; from infra.storage import local as storage_local; from infra.storage import Storage\n"
        "storage_local.os.fsync = lambda fd: os._exit(9)\n"
        "Storage(sys.argv[1]).write_atomic('a/out.png', b'x' * 1000)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, timeout=60)
    storage = Storage(tmp_path)
    assert done.returncode == 9
    assert list(storage.walk()) == []
    (left,) = storage.leftovers()
    assert left.path.startswith("a/.mpsr-")


def test_new_files_obey_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        Storage(tmp_path).write_atomic("x", b"1")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


def test_without_hard_links_the_refusal_says_what_to_do(tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr("infra.storage.local.os.link", refuse)
    with pytest.raises(StorageError, match="no hard links; put the workspace on another one"):
        Storage(tmp_path).create_new("x", b"1")
    assert list(tmp_path.iterdir()) == []


def test_a_file_info_is_plain(tmp_path):
    assert FileInfo("a/\udcff").ledger_path == "a/%FF"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://user:pass@bucket/x", "s3://bucket/x"),
        ("https://a:b@host/x?X-Amz-Signature=abc&t=1", "https://host/x"),
        ("https://us%40er:p@ss@host/x", "https://host/x"),
        ("s3://bucket/who@home/x", "s3://bucket/who@home/x"),
        ("/photos/who@home/what?.jpg", "/photos/who@home/what?.jpg"),
    ],
)
def test_an_address_is_shown_without_what_opens_it(url, shown):
    assert Storage(url).shown_url == shown
