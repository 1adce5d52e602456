"""Forecasts: which pictures are measured, what rates say, what is remembered, and that Ctrl-C spares the server."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image

from flows.cli.words.restoration import _shares
from flows.restoration.forecast import Memory, assumptions, parts_of
from flows.restoration.plan import Plan
from infra.settings import Settings
from tasks.recipes.forecast import (
    LARGEST,
    Part,
    Rates,
    Shape,
    StageRate,
    choose,
    foretell,
    per_size,
    scaled,
    spread,
    work_seconds,
)

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def rates(**more):
    stages = {
        "detect_align": StageRate(seconds=0.5, faces=False, batch=4),
        "restore": StageRate(seconds=0.1, share=0.5, batch=8),
    }
    known = {"faces": 2.0, "spread": 0.05, "startup": 10.0, "closing": 0.0, "prefect": 5.0, "workers": 2, "devices": 1}
    told = {"how": "pre-flight", "pictures": 12, "source": "/photos", "measured": NOON}
    return Rates(**{"stages": stages, **known, **told, **more})


def archive_of(sizes):
    return {hashlib.sha256(str(n).encode()).hexdigest(): size for n, size in enumerate(sizes)}


# -- the sample


def test_large_pictures_are_likelier_and_the_weights_make_up_for_it():
    sizes = archive_of([0.5] * 200 + [2.0] * 100 + [30.0])
    picks = choose(sizes, 12)
    giant = max(sizes, key=sizes.get)
    assert picks == choose(dict(reversed(sizes.items())), 12), "the same archive, the same pictures"
    assert len(picks) == 12
    assert picks[giant] == 1.0
    assert sum(weight * sizes[i] for i, weight in picks.items()) == pytest.approx(sum(sizes.values()))


def test_weighted_counts_are_unbiased():
    rng, estimates = np.random.default_rng(3), []
    for _ in range(400):
        sizes = {rng.bytes(8).hex(): float(size) for size in rng.choice([1.0, 2.0, 4.0], 80)}
        picks = choose(sizes, 10)
        estimates.append(sum(picks.values()) / len(sizes))
    assert np.mean(estimates) == pytest.approx(1.0, abs=0.03)


def test_pictures_too_large_to_wait_for_are_measured_only_where_there_are_no_others():
    sizes = archive_of([1.0] * 5 + [LARGEST + 1])
    assert max(sizes[i] for i in choose(sizes, 12)) == 1.0
    assert len(choose(archive_of([LARGEST + 1] * 3), 12)) == 3


def test_what_is_alike_has_no_spread_and_what_was_all_measured_has_none_either():
    sizes, every = archive_of([1.0, 2.0, 3.0, 4.0]), 1.0
    even = {i: 7 * size for i, size in sizes.items()}
    weights = dict.fromkeys(sizes, 5.0)
    assert per_size(even, sizes, weights) == pytest.approx(7)
    assert spread(even, sizes, weights) == pytest.approx(0)
    uneven = {i: n**3 + 1.0 for n, i in enumerate(sizes)}
    assert spread(uneven, sizes, weights) > 0.2
    assert spread(uneven, sizes, dict.fromkeys(sizes, every)) == 0


# -- the arithmetic


def test_one_shard_waits_for_its_slowest_worker_at_every_stage():
    one = [Part(12, 12.0)]
    # 12 pictures of 0.5 s in micro-batches of 4: one worker gets two of the three. 12 faces of 0.1 s: 8 and 4.
    assert work_seconds(rates(), one, Shape(12, 1, 3)) == pytest.approx(8 * 0.5 + 8 * 0.1 + 2 * 0.13)


def test_many_shards_share_the_workers_evenly():
    parts, shape = [Part(10_000, 10_000.0)], Shape(10_000, 32, 3)
    two = work_seconds(rates(), parts, shape)
    assert two == pytest.approx((10_000 * 0.5 + 10_000 * 0.1) / 2, rel=0.02)
    assert work_seconds(rates(workers=4), parts, shape) == pytest.approx(two / 2, rel=0.02)


def test_only_the_stages_that_a_change_makes_stale_cost_time():
    both = work_seconds(rates(), [Part(100, 100.0)], Shape(100, 1, 3))
    late = work_seconds(rates(), [Part(100, 100.0, frozenset({"restore"}))], Shape(100, 1, 3))
    assert late < both / 4

    class Ledger:
        def query(self, sql):
            import pyarrow as pa

            return pa.table({"stage_digest": ["old", "kept"]})

    import pyarrow as pa

    pixels = [size * 1_000_000 for size in (0.75, 1.75, 2.75)]  # each picture counts as 0.25 megapixels more
    work = pa.table({"why": ["new", "stale", "stale"], "pixels": pixels, "image_id": ["a", "b", "c"]})
    parts = parts_of(Plan(work, {}, 0, True), Ledger(), {"detect_align": "kept", "restore": "other"})
    assert parts == [Part(1, 1.0), Part(2, 5.0, frozenset({"restore"}))]


def test_a_run_scales_its_rates_to_what_it_took():
    parts, shape = [Part(12, 12.0)], Shape(12, 1, 3)
    own = scaled(rates(), 9.0, parts, shape)
    assert work_seconds(own, parts, shape) == pytest.approx(9.0, rel=0.05)


def test_money_is_devices_times_hours_times_price_with_a_range():
    told = foretell(rates(devices=4), [Part(10, 10.0)], Shape(10, 1, 3), prefect=None, scan=1.0, price=3.6)
    assert told.parts["prefect"] == 5.0
    assert told.seconds == pytest.approx(sum(told.parts.values()), abs=0.3)
    assert told.low < told.seconds < told.high
    assert told.cost_of(1000) == pytest.approx(4 * 1000 / 3600 * 3.6)
    assert told.shares == {"restore": 0.5}
    assert _shares({"a": 0.5, "gated": 0.01, "b": 0.501}) == "50 % through a, b; 1 % through gated"
    said = told.model_dump(mode="json")
    assert said["cost_low"] < said["cost"] < said["cost_high"]
    assert foretell(rates(), [Part(1, 1.0)], Shape(1, 1, 3), prefect=0, scan=0).cost is None


# -- the memory


@pytest.fixture
def memory(tmp_path):
    return Memory(Settings(weights_dir=str(tmp_path / "cache" / "weights")), "cpu-float32", "digest")


def test_rates_are_remembered_by_archive_and_lent_to_others_by_name(memory):
    assert memory.recall("/photos") is None
    memory.keep(rates())
    memory.keep(rates(source="/other", measured=NOON.replace(hour=13), faces=9.0))
    assert memory.recall("/photos").faces == 2.0
    lent = memory.recall("/third")
    assert lent.source == "/other"
    assert "/other" in assumptions(lent, "/third")
    assert assumptions(lent, "/other") == ""


def test_another_recipe_machine_or_number_of_workers_has_rates_of_its_own(memory, tmp_path):
    memory.keep(rates())
    folder = str(tmp_path / "cache" / "weights")
    for other in (
        Memory(Settings(weights_dir=folder), "cpu-float32", "another"),
        Memory(Settings(weights_dir=folder), "cuda-float32", "digest"),
        Memory(Settings(weights_dir=folder, workers=3), "cpu-float32", "digest"),
    ):
        assert other.recall("/photos") is None


def test_a_run_is_worth_more_than_a_sample(memory):
    memory.keep(rates(how="run", pictures=500, prefect=3.0))
    assert memory.keep(rates(pictures=12)).pictures == 500
    elsewhere = memory.keep(rates(source="/other", prefect=None, measured=NOON.replace(hour=14)))
    assert elsewhere.prefect == 3.0, "what a sample cannot measure is taken from the run"
    assert memory.keep(rates(how="run", pictures=600)).pictures == 600


def test_a_memory_that_cannot_be_read_or_written_is_none(memory, tmp_path):
    file = tmp_path / "cache" / "rates.json"
    file.parent.mkdir()
    for text in ("not JSON", '{"schema": 99}', json.dumps({"schema": 1, "rates": {memory._key: {"/photos": {}}}})):
        file.write_text(text)
        assert memory.recall("/photos") is None
    file.unlink()
    file.mkdir()
    assert memory.keep(rates()) == rates()


# -- the measurement, on the real engine


@pytest.fixture
def archive(tmp_path):
    """Sixteen small pictures, half of them dark."""
    folder = tmp_path / "archive"
    folder.mkdir()
    for n in range(16):
        value = 40 + n if n % 2 else 160 + n
        Image.fromarray(np.full((64, 64 + n, 3), value, np.uint8)).save(folder / f"{n:02}.png")
    return folder


RECIPE = """
name = "forecast"
[[stage]]
id = "detect_align"
settings = { detector = "none" }
[[stage]]
id = "scores"
use = "fake_stages:FixedScores"
[[stage]]
id = "brighten"
use = "fake_stages:Brighten"
when = "clipiqa.aligned < 0.3"
settings = { seconds = 0.06 }
[[stage]]
id = "paste_back"
"""


@pytest.fixture
def job(archive, tmp_path):
    from flows.jobs.restoration import Job

    (tmp_path / "forecast.toml").write_text(RECIPE)
    settings = {"workers": 2, "threads": 1, "weights_dir": str(tmp_path / "cache" / "weights"), "price_per_gpu_hour": 9}
    recipe = str(tmp_path / "forecast.toml")
    return Job(source=str(archive), workspace=str(tmp_path / "ws"), recipe=recipe, settings=settings)


@pytest.mark.usefixtures("prefect_server", "ray_cluster")
def test_a_plan_measures_once_and_the_run_is_held_to_it(job, archive, tmp_path, monkeypatch):
    from flows.cli.questions.preview import preview
    from flows.restoration import restore

    before = {path: path.stat().st_mtime_ns for path in archive.iterdir()}
    assert "nothing was measured" in preview(job, preflight=False).no_forecast
    first = preview(job)
    told = first.forecast
    assert (told.images, told.faces, told.workers) == (16, 16, 2)
    assert told.how == "pre-flight"
    assert told.shares["brighten"] == pytest.approx(0.5, abs=0.2)
    known = json.loads((tmp_path / "cache" / "rates.json").read_text())["rates"]
    (measured,) = [rates for held in known.values() for rates in held.values()]
    assert 0.06 <= measured["stages"]["brighten"]["seconds"] < 0.6, "it sleeps so long; a busy machine adds to it"
    assert {path: path.stat().st_mtime_ns for path in archive.iterdir()} == before
    assert not (tmp_path / "ws").exists(), "a plan makes no workspace"

    monkeypatch.setattr("flows.restoration.measure", lambda *_: pytest.fail("rates are known"))
    assert preview(job).forecast.pictures == told.pictures
    ended = restore_in_a_flow(restore, job).forecast
    assert ended.took_seconds > 0.24
    assert ended.error_percent == pytest.approx(100 * (ended.seconds / ended.took_seconds - 1), abs=5)
    assert ended.cost_of_run == pytest.approx(ended.took_seconds / 3600 * 9, abs=1e-3)

    again = preview(job.model_copy(update={"workspace": str(tmp_path / "fresh")})).forecast
    assert (again.how, again.pictures) == ("run", 16), "what the run measured takes the sample's place"
    assert preview(job).forecast is None, "nothing is left to do"


def restore_in_a_flow(restore, job):
    from prefect import flow

    return flow(restore, name="forecast", validate_parameters=False, persist_result=False)(job)


def test_without_weights_nothing_is_measured_and_that_is_said(job):
    from flows.cli.questions.preview import preview

    told = preview(job.model_copy(update={"recipe": "mpsr", "settings": {**job.settings, "device": "cpu"}}))
    assert told.forecast is None
    assert told.weights_missing
    assert "cannot be measured" in told.no_forecast


# -- Ctrl-C


def test_the_server_does_not_hear_the_ctrl_c_that_is_meant_for_the_run(monkeypatch):
    import prefect.server.api.server as server_module
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.cli import local

    class Server:
        server_process = None

        def start(self, timeout):
            said = "import signal, sys; signal.signal(signal.SIGINT, lambda *_: sys.exit(9)); print(); sys.stdin.read()"
            command = [sys.executable, "-c", said]
            Server.server_process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    monkeypatch.setattr(server_module, "SubprocessASGIServer", Server)
    monkeypatch.setattr(local, "locked", dict)
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        local.start_server()
    process = Server.server_process
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.3)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, []), "this process hears it"
    local.end_server()
    assert process.wait(timeout=5) == -signal.SIGKILL


def test_a_server_that_is_named_is_used(monkeypatch):
    import prefect.server.api.server as server_module
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.cli import local

    monkeypatch.setattr(server_module, "SubprocessASGIServer", lambda: pytest.fail("a server is there already"))
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        local.start_server()
