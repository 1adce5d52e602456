"""The executor on Ray and inside this process: every item comes back exactly once, whatever dies in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest
from fake_hosts import FakeItem
from places import HELPERS

from infra.storage import PathRefusedError, StorageFullError
from infra.workers.actor import PoolSize
from infra.workers.cluster import ClusterSettings, start_or_join
from infra.workers.errors import (
    ExecutorCancelled,
    ExecutorError,
    HostContractBroken,
    InfrastructureError,
    ResourceExhausted,
    Trouble,
    WorkersKeepDying,
    WorkerStartFailed,
    kind_of,
)
from infra.workers.executor import Executor
from infra.workers.maps import Batch, Done, ExecutorSettings, Job, SizeLimits

HERE = str(HELPERS)
BACKENDS = ["inside", "ray"]
CONFIG = {"memory": 100}
SHARE = 0.5


@pytest.fixture(scope="module")
def cluster():
    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", HERE, prepend=os.pathsep)
    with start_or_join(ClusterSettings()) as running:
        yield running
    patch.undo()


def settings(**changes):
    values = {
        "retry_wait": 0.01,
        "restart_wait": 0.01,
        "start_timeout": 60.0,
        "call_timeout": 60.0,
        "cancel_grace": 20.0,
    }
    return ExecutorSettings(**{**values, **changes})


def executor(factory="build", config=CONFIG, actors=2, backend="inside", **changes):
    pool = PoolSize(actors, cpus_per_actor=SHARE, inside=backend == "inside")
    return Executor(f"fake_hosts:{factory}", config, pool=pool, settings=settings(**changes))


@pytest.fixture(scope="module")
def inside_pool():
    with executor() as running:
        yield running


@pytest.fixture(scope="module")
def ray_pool(cluster):
    with executor(backend="ray") as running:
        yield running


@pytest.fixture(params=BACKENDS)
def pool(request):
    """One executor per backend that all tests of this file share, as the shards of a run do."""
    return request.getfixturevalue(f"{request.param}_pool")


def items(count, **special):
    """Items 0…count-1; `special` maps "i7" to what item 7 is made of."""
    return [FakeItem(str(i), **special.get(f"i{i}", {})) for i in range(count)]


def each(count, **changes):
    """Items that are all made of the same."""
    return [FakeItem(str(i), **changes) for i in range(count)]


def books(results: list[Done]):
    """Result counts per key, and failures per key."""
    rows = Counter(result.key for done in results for result in done.results)
    return rows, {done.failure.item.key: done.failure for done in results if done.failure}


def test_every_item_comes_back_exactly_once(pool):
    results = list(pool.map("sharpen", items(1000), 16))
    rows, failures = books(results)
    assert rows == Counter(str(i) for i in range(1000))
    assert not failures
    assert max(len(done.results) for done in results) == 16
    assert {done.attempt for done in results} == {1}
    assert {result.call for done in results for result in done.results} == {"sharpen"}
    assert pool.stats().calls["sharpen"].items == 1000


def test_an_empty_map_ends_at_once(pool):
    assert list(pool.map("sharpen", [], 8)) == []


def test_an_item_that_kills_its_worker_is_isolated_while_its_neighbours_finish(pool, request):
    how = "die" if "ray" in request.node.callspec.id else "exit"
    before = pool.stats().deaths
    rows, failures = books(list(pool.map("poison", items(24, i13={"do": how}), 8)))
    assert set(failures) == {"13"}
    assert (failures["13"].kind, failures["13"].reason_code) == ("poison", "killed_worker")
    assert failures["13"].attempts > 3
    assert rows == Counter(str(i) for i in range(24) if i != 13)
    assert pool.stats().deaths - before >= 5


def test_an_exception_is_bisected_to_its_item(pool):
    results = list(pool.map("break", items(32, i5={"do": "break"}, i6={"do": "break"}), 16))
    rows, failures = books(results)
    assert set(failures) == {"5", "6"}
    assert failures["5"].reason_code == "stage_error"
    assert failures["5"].reason == "KeyError: 'no such eye'"
    assert rows == Counter(str(i) for i in range(32) if i not in (5, 6))
    attempts = {result.key: done.attempt for done in results for result in done.results}
    assert attempts["20"] == 1
    assert attempts["4"] > 1


def test_too_little_memory_halves_the_batch(pool):
    before = pool.stats().halvings
    rows, failures = books(list(pool.map("hungry", each(32, size=30), 8)))
    assert rows == Counter(str(i) for i in range(32))
    assert not failures
    # 8 × 30 > 100: halved twice, to 2; the next new micro-batches start smaller instead of failing first
    assert 1 <= pool.stats().halvings - before <= 16


def test_one_item_too_large_for_memory_is_given_up_after_a_fresh_start(pool):
    before = pool.stats().refreshes
    rows, failures = books(list(pool.map("huge", items(16, i3={"size": 101}), 8)))
    assert set(failures) == {"3"}
    assert (failures["3"].kind, failures["3"].reason_code) == ("resource", "out_of_memory")
    assert len(rows) == 15
    assert pool.stats().refreshes == before + 1


def test_flaky_storage_is_retried(pool, tmp_path):
    flaky = {"do": "flaky", "marker": str(tmp_path / "tried"), "fails": 3}
    before = pool.stats().retries
    results = list(pool.map("flaky", items(8, i2=flaky), 8))
    rows, failures = books(results)
    assert len(rows) == 8
    assert not failures
    assert {done.attempt for done in results if done.results} == {4}
    assert pool.stats().retries == before + 3


def test_storage_that_stays_away_fails_only_what_needs_it(pool, tmp_path):
    gone = {"do": "flaky", "marker": str(tmp_path / "tried"), "fails": 10_000}
    rows, failures = books(list(pool.map("gone", items(16, i2=gone), 8)))
    assert set(failures) == {"2"}
    assert failures["2"].reason_code == "infrastructure"
    assert "storage went away" in failures["2"].reason
    assert len(rows) == 15


def test_a_reader_that_stops_early_leaves_the_pool_usable(pool):
    reader = pool.map("long", each(2000, seconds=0.01), 4)
    next(reader)
    reader.close()
    begun = time.monotonic()
    assert len(books(list(pool.map("next", items(10), 4)))[0]) == 10
    assert time.monotonic() - begun < 10


def test_maps_of_several_threads_share_the_pool(pool):
    found = {}

    def shard(name):
        found[name] = books(list(pool.map(name, each(200, seconds=0.001), 8)))[0]

    threads = [threading.Thread(target=shard, args=(f"shard{n}",)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {name: len(rows) for name, rows in found.items()} == {"shard0": 200, "shard1": 200, "shard2": 200}
    assert all(count == 1 for rows in found.values() for count in rows.values())


def test_workers_killed_from_outside_cost_nothing_but_time(cluster, tmp_path):
    log = tmp_path / "calls"
    stop, rng = threading.Event(), iter([0.9, 1.3, 0.7, 1.1, 1.9, 0.8])

    def killer():
        for pause in rng:
            if stop.wait(pause):
                return
            pid = int(log.read_text().splitlines()[-1].split()[1])
            _kill(pid)

    work = each(800, seconds=0.01)
    with executor(config={"log": str(log)}, backend="ray") as chaotic:
        chaotic.wait_ready(60)
        results = chaotic.map("chaos", work, 16)
        first = next(results)
        thread = threading.Thread(target=killer)
        thread.start()
        rows, failures = books([first, *results])
        stop.set()
        thread.join(10)
        deaths = chaotic.stats().deaths
    assert rows == Counter(str(i) for i in range(800))
    assert not failures
    assert deaths >= 2
    calls = [line.split()[3].split(",") for line in log.read_text().splitlines()]
    computed = sum(len(keys) for keys in calls)
    assert computed - 800 <= deaths * 2 * 16 * 2


def _kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def test_a_call_that_never_returns_counts_as_a_death(cluster):
    with executor(backend="ray", actors=1, call_timeout=1.5) as patient:
        patient.wait_ready(60)
        rows, failures = books(list(patient.map("stuck", items(2, i1={"do": "hang"}), 1)))
    assert set(rows) == {"0"}
    assert (failures["1"].kind, failures["1"].reason_code) == ("infrastructure", "too_slow")
    assert "no answer within 1.5 s" in failures["1"].reason


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_worker_that_cannot_start_says_why_at_once(request, backend):
    if backend == "ray":
        request.getfixturevalue("cluster")
    begun = time.monotonic()
    with executor("build_missing_weights", backend=backend) as broken:
        with pytest.raises(WorkerStartFailed, match=r"gfpgan.pth is missing \(349 MB\): run"):
            list(broken.map("any", items(3), 1))
        with pytest.raises(WorkerStartFailed):
            list(broken.map("later", items(3), 1))
        with pytest.raises(WorkerStartFailed):
            broken.wait_ready(1)
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize("backend", BACKENDS)
def test_cancel_delivers_what_was_finished_and_hands_out_no_more(request, backend, tmp_path):
    if backend == "ray":
        request.getfixturevalue("cluster")
    log = tmp_path / "calls"
    work = each(100, seconds=0.2)
    with executor(config={"log": str(log)}, backend=backend) as cancelled:
        results = cancelled.map("slow", work, 2)
        delivered = [next(results)]
        cancelled.cancel()
        started = len(log.read_text().splitlines())
        with pytest.raises(ExecutorCancelled, match="cancelled"):
            delivered.extend(results)
        with pytest.raises(ExecutorCancelled):
            list(cancelled.map("too late", work, 2))
    assert len(delivered) == started
    assert len(log.read_text().splitlines()) == started < 50


def test_a_slow_stage_of_one_shard_does_not_starve_another(tmp_path):
    log = tmp_path / "calls"
    with executor(config={"log": str(log)}, actors=1, window=1) as one:
        slow = one.map("slow", each(200, seconds=0.01), 1)
        next(slow)
        assert len(list(one.map("fast", items(10), 1))) == 10
        slow.close()
    order = [line.split()[0] for line in log.read_text().splitlines()]
    begun = order.index("fast")
    assert order[begun : begun + 19] == ["fast", "slow"] * 9 + ["fast"]


def test_calls_run_in_the_pool_that_placement_names(tmp_path):
    pools = {"gpu": PoolSize(1, inside=True), "cpu": PoolSize(2, inside=True)}
    with Executor(
        "fake_hosts:build",
        {"log": str(tmp_path / "calls")},
        pool=PoolSize(0, inside=True),
        settings=settings(),
        pools=pools,
        placement={"restore": "gpu", "detect": "cpu"},
    ) as split:
        assert len(list(split.map("detect", items(8), 1))) == 8
        assert len(list(split.map("restore", items(8), 4))) == 2
        with pytest.raises(ValueError, match="default pool has no workers"):
            split.map("elsewhere", items(1), 1)
    with pytest.raises(ValueError, match="pools are default"):
        Executor("fake_hosts:build", {}, pool=PoolSize(1), placement={"restore": "gpu"})


def test_workers_that_only_die_end_the_run():
    every = each(64, do="exit")
    with (
        executor(actors=1, restarts_per_worker=3) as dying,
        pytest.raises(WorkersKeepDying, match="more than 3 times in a row"),
    ):
        list(dying.map("any", every, 16))


def test_a_culprit_outlives_the_worker_that_was_given_up_for_it():
    with executor(actors=2, restarts_per_worker=1) as two:
        rows, failures = books(list(two.map("any", items(6, i2={"do": "exit"}), 1)))
    assert set(failures) == {"2"}
    assert len(rows) == 5


def test_many_unexplained_deaths_end_the_run():
    killers = {f"i{n}": {"do": "exit"} for n in range(0, 40, 4)}
    with (
        executor(actors=1, window=1, restarts_per_run=3) as dying,
        pytest.raises(WorkersKeepDying, match="died 4 times"),
    ):
        list(dying.map("any", items(40, **killers), 2))


def test_a_host_that_ends_its_process_while_it_is_built_is_tried_three_times():
    with executor("build_and_exit", actors=1) as broken, pytest.raises(WorkerStartFailed, match=r"SystemExit\(3\)"):
        broken.wait_ready(30)
    assert broken.stats().restarts == 2


def test_an_executor_works_only_inside_its_context():
    with pytest.raises(ExecutorError, match="context manager"):
        executor().map("any", items(1), 1)


def test_a_host_that_forgets_an_item_is_found_out():
    with executor("build_silent") as silent:
        rows, failures = books(list(silent.map("any", items(8, i4={"forget": True}), 8)))
    assert failures["4"].reason.startswith(HostContractBroken.__name__)
    assert len(rows) == 7


def test_items_need_keys_of_their_own():
    with executor() as one:
        with pytest.raises(ValueError, match="key of its own"):
            one.map("any", [FakeItem("a"), FakeItem("a")], 1)
        with pytest.raises(ValueError, match="batch_size"):
            one.map("any", items(1), 0)


def test_the_size_limit_falls_with_failures_and_rises_with_successes():
    limits, job = SizeLimits(), Job("call", items(64), 64)
    limits.failed(Batch(job, items(64)))
    assert limits.of("call", 64) == 32
    limits.failed(Batch(job, items(32), attempt=2))
    assert limits.of("call", 64) == 32, "halves say nothing about new micro-batches"
    for _ in range(8):
        limits.succeeded(Batch(job, items(4)))
    assert limits.of("call", 64) == 32, "small micro-batches prove nothing"
    for _ in range(8):
        limits.succeeded(Batch(job, items(32)))
    assert limits.of("call", 64) == 64


class OutOfMemoryError(RuntimeError):
    """Named as torch's, which need not be imported to be recognised."""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), "resource"),
        (ResourceExhausted("tile"), "resource"),
        (OutOfMemoryError("CUDA"), "resource"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "resource"),
        (OSError(12, "Cannot allocate memory"), "resource"),
        (OSError(5, "Input/output error"), "infrastructure"),
        (StorageFullError("no space"), "unwritable"),
        (PathRefusedError("a link"), "unwritable"),
        (TimeoutError(), "infrastructure"),
        (InfrastructureError("S3"), "infrastructure"),
        (ValueError("bad"), "poison"),
    ],
)
def test_errors_are_sorted_where_they_are_caught(error, kind):
    assert kind_of(error) == kind
    assert Trouble.of(error).kind == kind


def test_the_executor_is_importable_without_ray_and_torch():
    names = "infra.workers.executor, infra.workers.cluster"
    check = f"import sys, {names}; sys.exit(bool({{'ray', 'torch', 'prefect'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], timeout=60, check=False).returncode == 0
