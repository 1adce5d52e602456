"""What users fear most of a long run: it dies. Workers and driver are killed with SIGKILL while they work."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import numpy as np
import psutil
import pytest
from PIL import Image

pytestmark = pytest.mark.usefixtures("prefect_server")

PICTURES, BATCH, WORKERS, WINDOW = 40, 4, 2, 2
RECIPE = """
name = "chaos"
[[stage]]
id = "detect_align"
settings = {{ detector = "none" }}
[[stage]]
id = "brighten"
use = "fake_stages:Brighten"
settings = {{ seconds = 0.15, journal = "{journal}" }}
[[stage]]
id = "paste_back"
"""


@pytest.fixture
def place(tmp_path):
    (tmp_path / "archive").mkdir()
    for n in range(PICTURES):
        level = np.full((32, 32, 3), 20 + 4 * n, np.uint8)
        Image.fromarray(level).save(tmp_path / "archive" / f"{n:02}.png")
    (tmp_path / "chaos.toml").write_text(RECIPE.format(journal=tmp_path / "journal"))
    return tmp_path


def start(place):
    """A run in a process of its own, on the test session's Prefect server and a Ray of its own."""
    from prefect.settings import PREFECT_API_URL

    code = (
        "from flows.restore_dataset import restore_dataset; import sys; "
        "s = restore_dataset(source=sys.argv[1], workspace=sys.argv[2], recipe=sys.argv[3], "
        f"settings={{'workers': {WORKERS}, 'threads': 1}}); print(s.outcomes['restored'])"
    )
    arguments = [str(place / name) for name in ("archive", "ws", "chaos.toml")]
    environment = {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value() or ""}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def worked_on(place):
    journal = place / "journal"
    return Counter(journal.read_text().split()) if journal.exists() else Counter()


def wait_until(condition, seconds=150.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


def test_a_killed_driver_is_resumed_and_little_is_done_twice(place):
    first = start(place)
    wait_until(lambda: sum(worked_on(place).values()) >= PICTURES // 2 or first.poll() is not None)
    assert first.poll() is None, first.stderr.read()
    first.send_signal(signal.SIGKILL)
    first.wait(timeout=30)
    time.sleep(3)  # workers of a dead driver end by themselves
    second = start(place)
    out, err = second.communicate(timeout=240)
    assert second.returncode == 0, err
    assert out.strip() == str(PICTURES)
    done = worked_on(place)
    assert len(done) == PICTURES
    twice = sum(n - 1 for n in done.values())
    assert twice <= BATCH * WORKERS * WINDOW, "at most the micro-batches in flight"
    assert len(list((place / "ws/restored").iterdir())) == PICTURES


def test_workers_killed_at_random_cost_time_and_nothing_else(place):
    run = start(place)
    killed = []

    def kill_now_and_then():
        rng = random.Random(1)
        while run.poll() is None and len(killed) < 3:
            workers = [p for p in psutil.Process(run.pid).children(recursive=True) if is_worker(p)]
            if worked_on(place) and workers:
                killed.append(rng.choice(workers))
                killed[-1].kill()
                time.sleep(2.0)
            time.sleep(0.1)

    killer = threading.Thread(target=kill_now_and_then, daemon=True)
    killer.start()
    out, err = run.communicate(timeout=240)
    assert run.returncode == 0, err
    assert killed
    assert out.strip() == str(PICTURES), "nobody is quarantined for having been in the wrong place"


def is_worker(process):
    try:
        return process.name().startswith("ray::") and "HostRunner" in " ".join(process.cmdline())
    except psutil.Error:
        return False
