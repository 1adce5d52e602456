"""One writer per workspace: refusal, take-over, fencing, and holders that died."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from places import ROOT
from s3_server import fresh_bucket, s3_options

from infra.ledger import lease as lease_module
from infra.ledger.lease import Lease, LeaseLost, WorkspaceBusy, holder_of
from infra.storage.storage import Storage

HOLD = """
import sys, time
from infra.ledger import Lease
from infra.storage import Storage
held = Lease.acquire(Storage(sys.argv[1]), "run-of-child", ttl_s=float(sys.argv[2]))
print(held.token, flush=True)
time.sleep(60)
"""


@pytest.fixture
def storage(tmp_path):
    return Storage(tmp_path)


@pytest.fixture
def holding_child(storage):
    """A process that holds the workspace's lease for up to a minute."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, storage.url, "60"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline().strip() == "1"
    yield child
    child.kill()
    child.wait(timeout=10)
    child.stdout.close()


def elsewhere(monkeypatch, name: str = "another machine") -> None:
    monkeypatch.setattr(lease_module, "_machine", lambda: name)


def test_tokens_grow_and_a_released_workspace_is_free(storage):
    tokens = []
    for run in ("a", "b", "c", "d"):
        with Lease.acquire(storage, run) as held:
            held.check()
            tokens.append(held.token)
            assert holder_of(storage).owner == run
        assert holder_of(storage) is None
    assert tokens == [1, 2, 3, 4]
    assert len(list(storage.walk("leases"))) == 4, "only the last two leases are kept, each with its beat"


def test_a_second_run_is_refused_and_told_whose_it_is(storage):
    with Lease.acquire(storage, "run-1"), pytest.raises(WorkspaceBusy) as refused:
        Lease.acquire(storage, "run-2")
    text = str(refused.value)
    for part in ("run-1", str(os.getpid()), "UTC", "end that process", lease_module.socket.gethostname()):
        assert part in text


def test_a_run_that_fails_gives_the_workspace_free(storage):
    with pytest.raises(ZeroDivisionError), Lease.acquire(storage, "run-1"):
        _ = 1 / 0
    assert Lease.acquire(storage, "run-2").token == 2


def test_a_killed_holder_on_this_machine_is_recognised_at_once(storage, holding_child):
    with pytest.raises(WorkspaceBusy, match="run-of-child"):
        Lease.acquire(storage, "resumed")
    os.kill(holding_child.pid, signal.SIGKILL)  # not waited for: a zombie counts as dead
    deadline = time.monotonic() + 10
    while holder_of(storage) is not None and time.monotonic() < deadline:
        time.sleep(0.05)
    started = time.monotonic()
    with Lease.acquire(storage, "resumed") as held:
        assert held.token == 2
    assert time.monotonic() - started < 5


def test_a_reused_process_id_is_not_the_holder(storage):
    held = Lease.acquire(storage, "run-1")
    held.release()
    claim = json.loads(storage.read_bytes("leases/000001.json"))
    storage.write_atomic("leases/000002.json", json.dumps({**claim, "token": 2, "pid_started": 12345.0}).encode())
    assert Lease.acquire(storage, "run-2").token == 3


def test_a_silent_holder_elsewhere_is_taken_over_and_fenced(storage, monkeypatch):
    old = Lease.acquire(storage, "run-1", ttl_s=0.3)
    old._ended.set()  # the machine of run-1 stalls: no more beats, no release
    old._heart.join()
    time.sleep(0.4)
    elsewhere(monkeypatch)
    with Lease.acquire(storage, "run-2", ttl_s=0.3) as new:
        assert new.token == old.token + 1
        with pytest.raises(LeaseLost, match="run-2"):
            old.check()
        new.check()


def test_a_holder_long_overtaken_still_learns_of_it(storage, monkeypatch):
    old = Lease.acquire(storage, "run-1")
    old._ended.set()
    elsewhere(monkeypatch)
    storage.write_atomic("leases/000001.beat.json", json.dumps({"renewed": 0, "released": True}).encode())
    for run in "abcd":
        Lease.acquire(storage, run).release()
    with pytest.raises(LeaseLost):
        old.check()


def test_a_live_holder_elsewhere_whose_clock_is_wrong_is_respected(storage, monkeypatch):
    held = Lease.acquire(storage, "run-1", ttl_s=0.6)
    monkeypatch.setattr(lease_module.time, "time", lambda clock=time.time: clock() - 3_600)
    elsewhere(monkeypatch)
    with pytest.raises(WorkspaceBusy, match="run-1"):
        Lease.acquire(storage, "run-2", ttl_s=0.6)
    held.release()


def test_the_heartbeat_keeps_a_lease_alive(storage, monkeypatch):
    with Lease.acquire(storage, "run-1", ttl_s=0.6):
        time.sleep(1.2)
        elsewhere(monkeypatch)
        with pytest.raises(WorkspaceBusy):
            Lease.acquire(storage, "run-2")


def test_of_many_contenders_one_gets_it(storage):
    got, refused = [], []
    start = threading.Barrier(6)

    def contend(name: str) -> None:
        start.wait()
        try:
            got.append(Lease.acquire(storage, name))
        except WorkspaceBusy:
            refused.append(name)

    threads = [threading.Thread(target=contend, args=(f"run-{i}",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert (len(got), len(refused)) == (1, 5)
    got[0].release()


def test_leases_work_on_s3():
    with s3_options() as options:
        storage = fresh_bucket(options)
        with Lease.acquire(storage, "run-1") as held:
            held.check()
            with pytest.raises(WorkspaceBusy, match="run-1"):
                Lease.acquire(storage, "run-2")
        with Lease.acquire(storage, "run-2") as held:
            assert held.token == 2


@pytest.mark.parametrize("damaged", [b"", b"{", b"[1]", b'{"token": 1}', b"\xff\xfe"])
def test_a_damaged_lease_stops_nobody_for_ever_and_shuts_out_whoever_lives(storage, monkeypatch, damaged):
    monkeypatch.setattr(lease_module, "TTL_S", 0.4)
    with Lease.acquire(storage, "first", ttl_s=0.4) as held:
        storage.write_atomic("leases/000001.json", damaged)
        with pytest.raises(WorkspaceBusy, match="unknown"):
            Lease.acquire(storage, "second")
        held._ended.set()  # its process dies without a word
    time.sleep(0.5)
    storage.write_atomic("leases/000001.beat.json", damaged)
    with Lease.acquire(storage, "third") as third:
        assert third.token == 2
