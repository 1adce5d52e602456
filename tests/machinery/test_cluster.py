"""Starting and joining Ray, and sizing a pool for what is found there."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from places import HELPERS

from infra.workers.actor import PoolSize
from infra.workers.cluster import (
    ClusterFacts,
    ClusterSettings,
    InsecureDashboard,
    Node,
    NoGpu,
    PoolWants,
    plan_pool,
    start_or_join,
)

GB = 1e9
TESTS = str(HELPERS)

JOIN = """
import json, sys
from fake_hosts import FakeItem
from infra.workers.cluster import ClusterSettings, ClusterUnreachable, PoolWants, plan_pool, start_or_join
from infra.workers.executor import Executor
try:
    with start_or_join(ClusterSettings(address=sys.argv[1])) as cluster:
        facts = cluster.facts()
        pool = plan_pool(facts, PoolWants(memory=1e6))
        with Executor("fake_hosts:build", {}, pool=pool) as executor:
            every = [FakeItem(str(i)) for i in range(9)]
            keys = [result.key for done in executor.map("call", every, 2) for result in done.results]
        print(json.dumps({"cpus": facts.cpus, "actors": pool.actors, "keys": sorted(keys)}))
except ClusterUnreachable as error:
    print(json.dumps({"refused": str(error)}))
"""

START = """
import json, socket, sys
from infra.workers.cluster import ClusterSettings, start_or_join
import psutil
with start_or_join(ClusterSettings()) as cluster:
    here = [psutil.Process(), *psutil.Process().children(recursive=True)]
    sockets = [c.laddr.ip for p in here for c in p.net_connections("inet") if c.status == "LISTEN"]
    import ray
    again = start_or_join(ClusterSettings())
    again.close()
    print(json.dumps({"sockets": sorted(set(sockets)), "alive": ray.is_initialized(), "processes": len(here)}))
"""


def nodes(*each):
    return ClusterFacts(tuple(Node(*one) for one in each))


@pytest.mark.parametrize(
    ("facts", "wants", "expected"),
    [
        (nodes((2, 0, 20 * GB)), PoolWants(), PoolSize(2, 0.0, 1.0, 1)),
        (nodes((64, 0, 15 * GB)), PoolWants(), PoolSize(10, 0.0, 1.0, 6)),
        (nodes((2, 0, 1 * GB)), PoolWants(), PoolSize(1, 0.0, 1.0, 2)),
        (nodes((3, 0, 99 * GB), (5, 0, 99 * GB)), PoolWants(), PoolSize(8, 0.0, 1.0, 1)),
        (nodes((16, 1, 99 * GB)), PoolWants(), PoolSize(1, 1.0, 1.0, 16)),
        (nodes((16, 4, 99 * GB), (16, 4, 99 * GB)), PoolWants(threads=2), PoolSize(8, 1.0, 1.0, 2)),
        (nodes((16, 2, 99 * GB)), PoolWants(workers=5), PoolSize(5, 1 / 3, 1.0, 3)),
        (nodes((16, 2, 99 * GB)), PoolWants(device="cpu", workers=4), PoolSize(4, 0.0, 1.0, 4)),
        (nodes((2, 0, 20 * GB)), PoolWants(workers=4), PoolSize(4, 0.0, 0.5, 1)),
    ],
)
def test_a_pool_fits_what_the_cluster_has(facts, wants, expected):
    assert plan_pool(facts, wants) == expected


def test_gpus_asked_for_and_not_there_are_a_named_error():
    with pytest.raises(NoGpu, match="has none"):
        plan_pool(nodes((8, 0, 20 * GB)), PoolWants(device="cuda"))


def test_a_dashboard_beyond_loopback_needs_a_token(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    for host in ("0.0.0.0", "192.0.2.7", "archive.example", "::"):
        with pytest.raises(InsecureDashboard, match="without authentication"):
            start_or_join(ClusterSettings(dashboard=True, dashboard_host=host))


NOBODY = """
import time
from infra.workers.cluster import ClusterSettings, ClusterUnreachable, start_or_join
begun = time.monotonic()
try:
    start_or_join(ClusterSettings(address="127.0.0.1:1"))
except ClusterUnreachable as error:
    print(round(time.monotonic() - begun), error)
"""


def test_an_address_where_nobody_is_fails_quickly_and_says_so():
    """In a process of its own: one with an open Ray lends that to whoever asks."""
    seconds, _, said = _python(NOBODY, env=os.environ).stdout.partition(" ")
    assert "cannot join the Ray cluster at 127.0.0.1:1: ConnectionRefused" in said
    assert int(seconds) < 20


def test_a_local_cluster_listens_on_loopback_alone_and_prints_nothing(tmp_path):
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | {"HOME": str(tmp_path)}
    done = _python(START, env=env)
    told = json.loads(done.stdout)
    assert set(told["sockets"]) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert told["processes"] > 3
    assert told["alive"], "a second connection was borrowed, so closing it closes nothing"
    assert (tmp_path / ".ray" / "auth_token").stat().st_mode & 0o077 == 0


@pytest.fixture
def running_cluster(tmp_path):
    """`ray start --head` on loopback, as an administrator would have started it; ended by its process id."""
    port = _free_port()
    env = {
        **{key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
        "PYTHONPATH": TESTS,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    command = [
        *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--include-dashboard=false"),
        *(f"--port={port}", "--node-ip-address=127.0.0.1", "--num-cpus=3", "--object-store-memory=100000000"),
    ]
    with (tmp_path / "ray.log").open("w") as log:
        head = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_for(port, head)
        yield f"127.0.0.1:{port}", env
    finally:
        head.send_signal(signal.SIGTERM)
        try:
            head.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
            head.wait(10)


def test_a_running_cluster_is_joined_with_its_token_and_not_without(running_cluster):
    address, env = running_cluster
    told = json.loads(_python(JOIN, address, env=env).stdout)
    assert told == {"cpus": 3.0, "actors": 3, "keys": [str(i) for i in range(9)]}
    refused = json.loads(_python(JOIN, address, env={**env, "RAY_AUTH_TOKEN": "f" * 64}).stdout)
    assert "with the token that it was started with" in refused["refused"]


def _python(script, *arguments, env):
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], env=env, capture_output=True, text=True, timeout=240, check=True
    )


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for(port, process):
    for _ in range(600):
        assert process.poll() is None, "ray start failed"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("ray start did not listen within 60 s")
