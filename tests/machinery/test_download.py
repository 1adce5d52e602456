"""Weights over a faulty network: resumed, held to their hash, from the next source, a mirror, a proxy or a folder."""

from __future__ import annotations

import hashlib
import http.server
import threading

import numpy as np
import pytest

from infra.weights.download import fetch
from infra.weights.errors import DownloadFailed, LicenceNotAccepted, WeightsMissing
from infra.weights.store import WeightsStore
from infra.weights.table import Licence, Weight, WeightsTable

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


@pytest.fixture
def store(tmp_path):
    """Builds a store over a table of the given rows; each has sensible defaults."""
    licences = {
        "free": Licence(title="Free", commercial="yes"),
        "nc": Licence(title="Strict", url="https://x", commercial="no", must_accept=True),
    }

    def build(**rows):
        defaults = {"title": "a net", "file": "net.bin", "licence": "free"}
        table = {name: Weight(name=name, **(defaults | fields)) for name, fields in rows.items()}
        return WeightsStore(tmp_path / "store", WeightsTable(table, licences))

    return build


def known(server, **more):
    return {
        "sources": [f"{server.url}/net.bin"],
        "sha256": HASH,
        "known_from": "publisher",
        "bytes": len(CONTENT),
    } | more


@pytest.fixture
def quick(monkeypatch):
    """No waiting between tries."""
    monkeypatch.setattr("infra.weights.download.time.sleep", lambda seconds: None)


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
        monkeypatch.setattr("infra.weights.download.shutil.disk_usage", lambda path: usage)
        with pytest.raises(DownloadFailed, match="needs 300,000 bytes"):
            store(a=known(server)).pull(["a"])
