"""The weights table, the store held to it, downloads over a faulty network, and checkpoints with code in them."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import pickle
import threading
import tomllib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from infra import weights as weights_module
from infra.checkpoint import convert, load_checkpoint, load_into, load_state_dict
from infra.download import fetch
from infra.weights import WeightsStore, WeightsTable
from infra.weights_errors import (
    DownloadFailed,
    LicenceNotAccepted,
    WeightsCorrupt,
    WeightsError,
    WeightsMismatch,
    WeightsMissing,
    WeightsUnknown,
    WeightsUnsafe,
)

CONTENT = bytes(np.random.default_rng(0).integers(0, 256, 300_000, np.uint8))
HASH = hashlib.sha256(CONTENT).hexdigest()


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Server:
    """Serves files on loopback and can be told to misbehave; remembers what it was asked."""

    def __init__(self, folder):
        self.folder = folder
        self.faults = []  # taken one per request: "cut", "busy", "page", "absent"
        self.ranges = []
        self.honours_ranges = True
        self.proxied = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def answer(self, request):
        self.ranges.append(request.headers.get("Range"))
        self.proxied += [request.path] if request.path.startswith("http") else []
        fault = self.faults.pop(0) if self.faults else ""
        path = self.folder / request.path.rpartition("/")[2]
        if fault == "busy":
            return request.send_error(503)
        if fault == "absent" or not path.is_file():
            return request.send_error(404)
        if fault == "page":
            return self.send(request, 200, b"<html>confirm</html>", {"Content-Type": "text/html"})
        content = path.read_bytes()
        start = self.start(request) if self.honours_ranges else 0
        if start and start >= len(content):
            return self.send(request, 416, b"", {"Content-Range": f"bytes */{len(content)}"})
        headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
        body = content[start:]
        return self.send(request, 206 if start else 200, body, headers, part=len(body) // 2 if fault == "cut" else None)

    @staticmethod
    def start(request):
        wanted = request.headers.get("Range", "")
        return int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0

    @staticmethod
    def send(request, status, body, headers, part=None):
        request.send_response(status)
        for key, value in ({"Content-Type": "application/octet-stream"} | headers).items():
            request.send_header(key, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body[:part])
        request.close_connection = True


@pytest.fixture
def server(tmp_path, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "net.bin").write_bytes(CONTENT)
    server = Server(folder)
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.http.shutdown()
    thread.join(5)
    server.http.server_close()


def make_table(tmp_path, **rows):
    """A table with the given rows; each has sensible defaults."""
    lines = ['[licences.free]\ntitle = "Free"\ncommercial = "yes"\n']
    lines += ['[licences.nc]\ntitle = "Strict"\nurl = "https://x"\ncommercial = "no"\nmust_accept = true\n']
    for name, fields in rows.items():
        fields = {"title": f"the net {name}", "file": "net.bin", "licence": "free"} | fields
        lines.append(f'[[weights]]\nname = "{name}"')
        lines += [f"{key} = {json.dumps(value)}" for key, value in fields.items()]
    path = tmp_path / "weights.toml"
    path.write_text("\n".join(lines))
    return WeightsTable.load(path)


@pytest.fixture
def store(tmp_path):
    """Builds a store over a table of the given rows."""
    return lambda **rows: WeightsStore(tmp_path / "store", make_table(tmp_path, **rows))


def known(server, **more):
    return {
        "sources": [f"{server.url}/net.bin"],
        "sha256": HASH,
        "known_from": "publisher",
        "bytes": len(CONTENT),
    } | more


class TestTable:
    def test_the_projects_own_is_whole(self):
        table = WeightsTable.load()
        for name in ("compact_restorer", "compact_severe", "compact_quality", "compact_landmarks", "compact_dehaze"):
            assert table[name].package == f"tasks/models/weights/{name}.safetensors"
        for recipe in ("mpsr", "mpsr-ntire2025", "mpsr-fast", "compact"):
            assert table.for_recipe(recipe)
        ntire = table.for_recipe("mpsr-ntire2025")
        assert {"sd21_base", "diffbir_v2", "pisa_sr", "gfpgan_v1_3", "ffa_net_ots", "face_tone_net"} <= set(ntire)

    def test_whatever_forbids_commerce_must_be_accepted(self):
        for licence in WeightsTable.load().licences.values():
            assert licence.must_accept or licence.commercial != "no"

    def test_every_address_is_encrypted_and_every_mirror_pinned(self):
        for row in WeightsTable.load().values():
            assert all(url.startswith("https://") for url in (*row.sources, *row.mirrors))
            assert all("/resolve/main/" not in url for url in row.mirrors)

    def test_every_row_says_how_to_get_it(self, tmp_path):
        store = WeightsStore(tmp_path)
        for name, row in store.table.items():
            said = store.instructions(name)
            assert name in said or row.package
            assert ("--accept-licence" in said) == (store.table.licence(name).must_accept and not row.package)

    def test_unknown_name_gets_the_nearest(self):
        with pytest.raises(WeightsUnknown, match="did you mean 'pisa_sr'"):
            WeightsTable.load()["pisasr"]

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"by_hand": "x", "hash": "0"}, "hash"),
            ({}, "needs `package`, `sources`"),
            ({"by_hand": "x", "file": "../net.bin"}, "file"),
            ({"by_hand": "x", "sha256": "0" * 64}, "come together"),
            ({"by_hand": "x", "licence": "gpl"}, "expected a licence"),
        ],
    )
    def test_a_wrong_row_is_named(self, tmp_path, fields, message):
        with pytest.raises(WeightsError, match=message):
            make_table(tmp_path, a=fields)

    def test_two_rows_never_share_a_file(self, tmp_path):
        with pytest.raises(WeightsError, match="two rows"):
            make_table(tmp_path, a={"by_hand": "x"}, b={"by_hand": "x"})

    def test_names_in_the_file_are_unique(self):
        raw = tomllib.loads(Path(weights_module.__file__).with_name("weights.toml").read_text())
        names = [row["name"] for row in raw["weights"]]
        assert len(names) == len(set(names)) == len(WeightsTable.load())


class TestStore:
    def test_missing_says_what_how_big_and_which_command(self, store, tmp_path):
        one = store(a={"sources": ["https://x/net.bin"], "bytes": 1_234_567, "licence": "nc"})
        with pytest.raises(WeightsMissing) as caught:
            one.path("a")
        for part in ("net.bin", "1,234,567 bytes", "mpsr models pull a --accept-licence nc", str(tmp_path / "store")):
            assert part in str(caught.value)

    def test_by_hand_says_where_and_which_command(self, store):
        with pytest.raises(WeightsMissing, match=r"Open the page\. Then run `mpsr models add a FILE`"):
            store(a={"by_hand": "Open the page."}).path("a")

    def test_known_hash_is_held(self, store, tmp_path):
        one = store(a={"by_hand": "x", "sha256": HASH, "known_from": "publisher"})
        one.folder.mkdir()
        (one.folder / "net.bin").write_bytes(CONTENT)
        assert one.path("a") == one.folder / "net.bin"
        assert one.sha256("a") == HASH
        (one.folder / "net.bin").write_bytes(CONTENT[:-1] + b"x")
        with pytest.raises(WeightsCorrupt, match=HASH):
            one.path("a")

    def test_unknown_hash_is_recorded_and_held_from_then_on(self, store):
        one = store(a={"by_hand": "x"})
        one.folder.mkdir()
        file = one.folder / "net.bin"
        file.write_bytes(CONTENT)
        assert not one.status("a").verified
        assert one.sha256("a") == HASH
        assert one.status("a").verified
        file.write_bytes(b"another")
        assert not one.status("a").verified
        with pytest.raises(WeightsCorrupt, match="first used"):
            one.path("a")

    def test_part_of_a_hash_is_held(self, store):
        one = store(a={"by_hand": "x", "sha256_prefix": "00000000"})
        one.folder.mkdir()
        (one.folder / "net.bin").write_bytes(CONTENT)
        with pytest.raises(WeightsCorrupt, match="00000000"):
            one.path("a")

    def test_an_unchanged_file_is_hashed_once(self, store, monkeypatch):
        one = store(a={"by_hand": "x"})
        one.folder.mkdir()
        (one.folder / "net.bin").write_bytes(CONTENT)
        one.path("a")
        monkeypatch.setattr(weights_module, "_sha256", lambda path: pytest.fail("hashed again"))
        assert one.sha256("a") == HASH

    def test_a_read_only_store_works(self, store, monkeypatch):
        one = store(a={"by_hand": "x"})
        one.folder.mkdir()
        (one.folder / "net.bin").write_bytes(CONTENT)
        monkeypatch.setattr(Path, "write_text", lambda *_, **__: (_ for _ in ()).throw(PermissionError()))
        assert one.sha256("a") == HASH

    def test_verify_reads_anew_and_names_what_is_wrong(self, store):
        one = store(a={"by_hand": "x"}, b={"by_hand": "x", "file": "b.bin"}, c={"by_hand": "x", "file": "c.bin"})
        one.folder.mkdir()
        for file in ("net.bin", "b.bin"):
            (one.folder / file).write_bytes(CONTENT)
        assert one.verify() == {"a": None, "b": None}
        stamp = (one.folder / "b.bin").stat()
        (one.folder / "b.bin").write_bytes(CONTENT[::-1])
        os.utime(one.folder / "b.bin", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        assert one.sha256("b") == HASH  # same size and time: the record is believed …
        assert isinstance(one.verify()["b"], WeightsCorrupt)  # … until somebody asks for a reading
        assert isinstance(one.verify(["c"])["c"], WeightsMissing)

    def test_package_files_need_no_store(self, tmp_path, monkeypatch):
        monkeypatch.setattr(weights_module, "PROJECT", tmp_path)
        (tmp_path / "net.bin").write_bytes(CONTENT)
        one = WeightsStore(tmp_path / "store", make_table(tmp_path, a={"package": "net.bin"}))
        assert one.path("a") == tmp_path / "net.bin"
        assert one.sha256("a") == HASH
        assert one.pull(["a"]) == {"a": tmp_path / "net.bin"}
        assert not list(tmp_path.glob("*.json"))
        with pytest.raises(WeightsError, match="comes with the package"):
            one.add("a", tmp_path / "net.bin")

    def test_folders_are_hashed_by_names_and_contents(self, store, tmp_path):
        one = store(a={"by_hand": "x", "file": "model"})
        source = tmp_path / "elsewhere"
        (source / "part").mkdir(parents=True)
        (source / "part" / "one.bin").write_bytes(b"1")
        assert one.add("a", source).is_dir()
        before = one.sha256("a")
        (one.folder / "model" / "part" / "one.bin").rename(one.folder / "model" / "part" / "two.bin")
        assert isinstance(one.verify(["a"])["a"], WeightsCorrupt)
        (one.folder / "model" / "part" / "two.bin").rename(one.folder / "model" / "part" / "one.bin")
        assert one.sha256("a") == before


class TestAdd:
    def test_copies_and_leaves_the_original(self, store, tmp_path):
        one = store(a={"by_hand": "x", "sha256": HASH, "known_from": "publisher"})
        (tmp_path / "Download (1).bin").write_bytes(CONTENT)
        assert one.add("a", tmp_path / "Download (1).bin").read_bytes() == CONTENT
        assert (tmp_path / "Download (1).bin").exists()

    @pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT[::-1]])
    def test_a_wrong_file_is_refused_and_leaves_nothing(self, store, tmp_path, content):
        one = store(a={"by_hand": "x", "sha256": HASH, "known_from": "publisher", "bytes": len(CONTENT)})
        (tmp_path / "wrong.bin").write_bytes(content)
        with pytest.raises(WeightsCorrupt, match="expected"):
            one.add("a", tmp_path / "wrong.bin")
        assert list(one.folder.iterdir()) == []

    def test_replaces_what_was_recorded(self, store, tmp_path):
        one = store(a={"by_hand": "x"})
        for content in (CONTENT, CONTENT[::-1]):
            (tmp_path / "new.bin").write_bytes(content)
            one.add("a", tmp_path / "new.bin")
            assert one.sha256("a") == hashlib.sha256(content).hexdigest()

    def test_licence_and_absence(self, store, tmp_path):
        one = store(a={"by_hand": "x", "licence": "nc"})
        with pytest.raises(LicenceNotAccepted, match="--accept-licence nc"):
            one.add("a", tmp_path / "net.bin")
        with pytest.raises(WeightsMissing, match="found nothing there"):
            one.add("a", tmp_path / "net.bin", accept_licences={"nc"})

    def test_pickles_become_safetensors_once(self, store, tmp_path):
        one = store(a={"by_hand": "x", "file": "net.pth", "convert": True})
        torch.save({"params_ema": {"module.w": torch.arange(6.0).view(2, 3).T}}, tmp_path / "net.pth")
        path = one.add("a", tmp_path / "net.pth")
        assert path.name == "net.safetensors"
        assert torch.equal(load_file(path)["w"], torch.arange(6.0).view(2, 3).T)
        assert not (one.folder / "net.pth").exists()
        assert one.sha256("a") == sha256(tmp_path / "net.pth")

        other = WeightsStore(tmp_path / "other", one.table)  # a machine without a network takes it from this one
        assert other.pull(["a"], from_dir=one.folder)["a"].name == "net.safetensors"
        assert other.sha256("a") == one.sha256("a")
        damaged = bytearray(path.read_bytes())
        damaged[-1] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(WeightsCorrupt, match="as when it was converted"):
            WeightsStore(tmp_path / "third", one.table).pull(["a"], from_dir=one.folder)

    def test_a_pickle_with_code_is_refused_and_leaves_nothing(self, store, tmp_path):
        one = store(a={"by_hand": "x", "file": "net.pth", "convert": True})
        with pytest.raises(WeightsUnsafe):
            one.add("a", save_evil(tmp_path))
        assert list(one.folder.iterdir()) == []
        assert not (tmp_path / "executed").exists()


class TestPull:
    def test_fetches_verifies_and_reports(self, server, store):
        one, seen = store(a=known(server)), []
        assert one.pull(["a"], progress=lambda *said: seen.append(said)) == {"a": one.folder / "net.bin"}
        assert (one.folder / "net.bin").read_bytes() == CONTENT
        assert seen[-1] == ("a", len(CONTENT), len(CONTENT))
        assert one.pull(["a"])["a"].exists()
        assert len(server.ranges) == 1

    def test_a_cut_connection_is_resumed(self, server, store, quick):
        server.faults = ["cut", "busy", "cut"]
        one = store(a=known(server))
        one.pull(["a"])
        assert sha256(one.folder / "net.bin") == HASH
        assert server.ranges == [None, "bytes=150000-", "bytes=150000-", "bytes=225000-"]
        assert list(one.folder.glob("*.part")) == []

    def test_an_interrupted_run_is_resumed_by_the_next(self, server, store, quick):
        one = store(a=known(server))
        server.faults = ["cut"] * 5
        with pytest.raises(DownloadFailed, match="run the command again"):
            one.pull(["a"])
        server.ranges.clear()
        one.pull(["a"])
        assert server.ranges == ["bytes=290625-"]

    def test_a_server_without_ranges_starts_over(self, server, store, quick):
        server.honours_ranges, server.faults = False, ["cut"]
        one = store(a=known(server))
        assert sha256(one.pull(["a"])["a"]) == HASH

    def test_a_part_of_another_file_is_thrown_away(self, server, tmp_path, quick):
        target = tmp_path / "net.bin"
        server.faults = ["cut"] * 5
        with pytest.raises(DownloadFailed):
            fetch([f"{server.url}/net.bin"], target, lambda part: None, lambda here, total: None)
        (server.folder / "net.bin").write_bytes(CONTENT[:1000])
        fetch([f"{server.url}/net.bin"], target, lambda part: None, lambda here, total: None)
        assert target.read_bytes() == CONTENT[:1000]

    def test_a_wrong_file_gives_way_to_the_next_source(self, server, store, quick):
        (server.folder / "bad.bin").write_bytes(CONTENT[::-1])
        one = store(a=known(server, sources=[f"{server.url}/bad.bin"], mirrors=[f"{server.url}/net.bin"]))
        assert sha256(one.pull(["a"])["a"]) == HASH

    @pytest.mark.parametrize(
        ("content", "reason"), [(CONTENT[::-1], HASH), (CONTENT[:-5], "expected 300,000 bytes"), (b"", "300,000 bytes")]
    )
    def test_wrong_hash_and_truncation_leave_nothing(self, server, store, quick, content, reason):
        (server.folder / "net.bin").write_bytes(content)
        one = store(a=known(server))
        with pytest.raises(DownloadFailed, match=reason):
            one.pull(["a"])
        assert list(one.folder.iterdir()) == []

    @pytest.mark.parametrize(("fault", "reason"), [("page", "web page"), ("absent", "404")])
    def test_what_is_no_file_is_said(self, server, store, quick, fault, reason):
        server.faults = [fault]
        with pytest.raises(DownloadFailed, match=reason):
            store(a=known(server)).pull(["a"])

    def test_nobody_listening_is_said(self, store, quick):
        with pytest.raises(DownloadFailed, match="gave up after 5 tries"):
            store(a={"sources": ["http://127.0.0.1:9/net.bin"]}).pull(["a"])

    def test_mirror_is_asked_first(self, server, store):
        one = store(a={"by_hand": "x", "sha256": HASH, "known_from": "publisher"})
        assert sha256(one.pull(["a"], mirror=f"{server.url}/")["a"]) == HASH

    def test_proxy_of_the_environment_is_used(self, server, store, monkeypatch):
        monkeypatch.setenv("HTTP_PROXY", server.url)
        monkeypatch.setenv("NO_PROXY", "")
        one = store(a=known(server, sources=["http://weights.invalid/net.bin"]))
        assert sha256(one.pull(["a"])["a"]) == HASH
        assert server.proxied == ["http://weights.invalid/net.bin"]

    def test_hugging_face_endpoint_is_honoured(self, server, store, monkeypatch):
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        one = store(a=known(server, sources=["https://huggingface.co/x/y/resolve/main/net.bin"]))
        assert sha256(one.pull(["a"])["a"]) == HASH

    def test_from_dir_needs_no_network(self, store, tmp_path):
        (tmp_path / "stick" / "deep").mkdir(parents=True)
        (tmp_path / "stick" / "deep" / "net.bin").write_bytes(CONTENT)
        one = store(a={"sources": ["https://nowhere.invalid/x"], "sha256": HASH, "known_from": "publisher"})
        assert sha256(one.pull(["a"], from_dir=tmp_path / "stick")["a"]) == HASH
        two = store(b={"sources": ["https://nowhere.invalid/x"], "file": "other.bin"})
        with pytest.raises(WeightsMissing, match=r"other\.bin in .*stick"):
            two.pull(["b"], from_dir=tmp_path / "stick")

    def test_licence_is_refused_before_anything_is_fetched(self, server, store):
        one = store(a=known(server), b=known(server, file="b.bin", licence="nc"))
        with pytest.raises(LicenceNotAccepted, match=r"Strict.*commercial use: no.*--accept-licence nc"):
            one.pull(["a", "b"])
        assert server.ranges == []
        (server.folder / "b.bin").write_bytes(CONTENT)
        assert set(one.pull(["a", "b"], accept_licences={"nc"})) == {"a", "b"}

    def test_one_failure_does_not_stop_the_others(self, server, store, quick):
        one = store(a={"by_hand": "Ask for it.", "file": "a.bin"}, b=known(server))
        with pytest.raises(WeightsMissing, match="Ask for it"):
            one.pull(["a", "b"])
        assert one.status("b").present

    def test_two_at_once_do_not_spoil_each_other(self, server, tmp_path):
        target, inside = tmp_path / "net.bin", []

        def check(part):
            with pytest.raises(DownloadFailed, match="another process"):
                fetch([f"{server.url}/net.bin"], target, lambda part: None, lambda here, total: None)
            inside.append(part)

        fetch([f"{server.url}/net.bin"], target, check, lambda here, total: None)
        assert inside
        assert target.read_bytes() == CONTENT

    def test_a_full_disk_is_said_beforehand(self, server, store, monkeypatch, quick):
        usage = type("Usage", (), {"free": 1000})
        monkeypatch.setattr("infra.download.shutil.disk_usage", lambda path: usage)
        with pytest.raises(DownloadFailed, match="needs 300,000 bytes"):
            store(a=known(server)).pull(["a"])


@pytest.fixture
def quick(monkeypatch):
    """No waiting between tries."""
    monkeypatch.setattr("infra.download.time.sleep", lambda seconds: None)


class Evil:
    """On unpickling, creates a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def save_evil(folder, **options):
    path = folder / "evil.pth"
    torch.save({"state_dict": {"w": torch.ones(2)}, "more": Evil(folder / "executed")}, path, **options)
    return path


@contextmanager
def foreign_class(module_name):
    """A class of a package that is not installed, as training frameworks leave in checkpoints."""
    import sys
    import types

    module = types.ModuleType(module_name)
    module.Left = type("Left", (), {"__module__": module_name, "__qualname__": "Left"})
    parents = module_name.split(".")
    names = [".".join(parents[: depth + 1]) for depth in range(len(parents))]
    sys.modules.update({name: types.ModuleType(name) for name in names[:-1]}, **{module_name: module})
    try:
        yield module.Left
    finally:
        for name in names:
            del sys.modules[name]


class TestCheckpoints:
    @pytest.mark.parametrize("wrapper", ["state_dict", "params_ema", "params", "model", None])
    def test_wrappings_are_undone(self, tmp_path, wrapper):
        state = {"module.w": torch.ones(2), "module.b": torch.zeros(1)}
        torch.save({wrapper: state} if wrapper else state, tmp_path / "net.pth")
        assert sorted(load_state_dict(tmp_path / "net.pth", expect="a net")) == ["b", "w"]

    def test_a_prefix_that_not_all_have_stays(self, tmp_path):
        torch.save({"module.w": torch.ones(2), "w": torch.ones(2)}, tmp_path / "net.pth")
        assert sorted(load_state_dict(tmp_path / "net.pth", expect="a net")) == ["module.w", "w"]

    @pytest.mark.parametrize("zipped", [True, False])
    def test_numpy_is_harmless(self, tmp_path, zipped):
        content = {"psnr": np.float64(31.5), "step": np.int64(3), "mean": np.arange(4.0), "cov": np.eye(3, dtype="f4")}
        torch.save(content, tmp_path / "net.pk", _use_new_zipfile_serialization=zipped)
        found = load_checkpoint(tmp_path / "net.pk", expect="statistics")
        assert all(np.array_equal(found[key], value) for key, value in content.items())

    def test_classes_left_by_training_frameworks_are_replaced_by_nothing(self, tmp_path):
        with foreign_class("pytorch_lightning.callbacks.invented") as left:
            one = left()
            one.secret = 1
            torch.save({"state_dict": {"w": torch.ones(2)}, "callbacks": {left: one}}, tmp_path / "net.ckpt")
        assert list(load_state_dict(tmp_path / "net.ckpt", expect="a net")) == ["w"]

    def test_other_foreign_classes_are_refused(self, tmp_path):
        with foreign_class("unheard_of.package") as left:
            torch.save({"state_dict": {"w": torch.ones(2)}, "x": left()}, tmp_path / "net.ckpt")
        with pytest.raises(WeightsUnsafe, match=r"unheard_of\.package\.Left"):
            load_state_dict(tmp_path / "net.ckpt", expect="a net")

    @pytest.mark.parametrize("zipped", [True, False])
    def test_code_is_named_and_not_run(self, tmp_path, zipped):
        path = save_evil(tmp_path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(WeightsUnsafe, match=r"expected a net.*(posix|nt)\.system.*nothing was run"):
            load_state_dict(path, expect="a net")
        assert not (tmp_path / "executed").exists()

    @pytest.mark.parametrize("protocol", [2, 4])
    @pytest.mark.filterwarnings("ignore:Detected pickle protocol")
    def test_bare_pickles_are_not_run(self, tmp_path, protocol):
        (tmp_path / "net.pkl").write_bytes(pickle.dumps({"w": Evil(tmp_path / "executed")}, protocol=protocol))
        with pytest.raises(WeightsUnsafe):
            load_state_dict(tmp_path / "net.pkl", expect="a net")
        assert not (tmp_path / "executed").exists()

    def test_programs_are_not_run(self, tmp_path):
        with pytest.warns(FutureWarning):
            torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "net.pt"))
        with pytest.raises(WeightsUnsafe, match="TorchScript"):
            load_state_dict(tmp_path / "net.pt", expect="a net")

    @pytest.mark.parametrize("kept", [0, 1, 100, 1500, -1])
    @pytest.mark.parametrize("kind", ["net.pth", "old.pth", "net.safetensors"])
    def test_truncated_files_are_corrupt(self, tmp_path, kind, kept):
        state = {"w": torch.rand(40, 40)}
        if kind == "net.safetensors":
            save_file(state, tmp_path / kind)
        else:
            torch.save(state, tmp_path / kind, _use_new_zipfile_serialization=kind == "net.pth")
        (tmp_path / kind).write_bytes((tmp_path / kind).read_bytes()[:kept])
        with pytest.raises((WeightsCorrupt, WeightsUnsafe), match="expected a net"):
            load_state_dict(tmp_path / kind, expect="a net")

    def test_a_web_page_is_corrupt(self, tmp_path):
        (tmp_path / "net.pth").write_text("<html>Virus scan warning</html>")
        with pytest.raises(WeightsCorrupt, match="<html>"):
            load_state_dict(tmp_path / "net.pth", expect="a net")

    @pytest.mark.parametrize("content", [torch.ones(2), {"epoch": 3}, {}])
    def test_other_contents_are_a_mismatch(self, tmp_path, content):
        torch.save(content, tmp_path / "net.pth")
        with pytest.raises(WeightsMismatch, match="expected a net"):
            load_state_dict(tmp_path / "net.pth", expect="a net")

    def test_absence_is_missing(self, tmp_path):
        with pytest.raises(WeightsMissing, match="expected a net"):
            load_state_dict(tmp_path / "net.pth", expect="a net")

    def test_another_architecture_is_a_mismatch(self, tmp_path):
        torch.save({"weight": torch.ones(3, 3), "extra": torch.ones(1)}, tmp_path / "net.pth")
        with pytest.raises(WeightsMismatch, match=r"(?s)a linear layer.*bias.*extra") as caught:
            load_into(torch.nn.Linear(2, 2), tmp_path / "net.pth", expect="a linear layer")
        assert str(tmp_path / "net.pth") in str(caught.value)

    def test_conversion_keeps_values_shared_or_not(self, tmp_path):
        shared = torch.rand(4, 6)
        state = {"a": shared, "b": shared, "part": shared[1:2], "turned": shared.T}
        torch.save(state, tmp_path / "net.pth")
        convert(tmp_path / "net.pth", tmp_path / "net.safetensors", expect="a net", notes={"source_file": "net.pth"})
        converted = load_file(tmp_path / "net.safetensors")
        assert all(torch.equal(converted[key], value) for key, value in state.items())
