"""Small jobs in this process: no Prefect, no Ray, and the same ledger, rows and files."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
from fake_stages import BRIGHTENING
from PIL import Image
from places import HELPERS, ROOT

from flows.jobs import JobError, job_for
from infra.ledger import Ledger
from infra.storage import Storage


@pytest.fixture
def folder(tmp_path):
    photos = tmp_path / "photos"
    (photos / "deeper").mkdir(parents=True)
    for name, grey in {"one.png": 90, "two.png": 120, "deeper/one.png": 60}.items():
        Image.fromarray(np.full((40, 40, 3), grey, np.uint8)).save(photos / name)
    (tmp_path / "local.toml").write_text(BRIGHTENING)
    return tmp_path


def job(folder, source="photos", workspace="out", engine="local", **more):
    asked = {"recipe": str(folder / "local.toml"), "settings": {"engine": engine, "threads": 1}} | more
    return job_for(source=str(folder / source), workspace=str(folder / workspace), **asked)


def hashes(tree):
    return {p.relative_to(tree): hashlib.sha256(p.read_bytes()).hexdigest() for p in tree.rglob("*") if p.is_file()}


def restored(folder, **asked):
    from flows.restoration import restore

    return restore(job(folder, **asked))


def test_neither_prefect_nor_ray_is_loaded(folder):
    code = (
        "import sys; from flows.jobs import Job; from flows.restoration import restore\n"
        "print(restore(Job.model_validate_json(sys.argv[1])).outcomes['restored'])\n"
        "print(*{'prefect', 'ray'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, job(folder).model_dump_json()]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=120, env={"PYTHONPATH": f"{ROOT}:{HELPERS}"}
    )
    assert done.stdout.split("\n") == ["3", "", ""]


def test_a_second_run_does_nothing_and_a_changed_setting_only_what_depends_on_it(folder):
    assert restored(folder).stages["brighten"].items == 3
    assert restored(folder).stages == {}
    changed = restored(folder, stages={"brighten": {"amount": 0.2}})
    assert set(changed.stages) == {"brighten", "paste_back"}


@pytest.mark.usefixtures("prefect_server", "ray_cluster")
def test_both_engines_leave_the_same_files_and_verdicts(folder):
    from flows.restore_dataset import restore_dataset

    restored(folder)
    restore_dataset(**job(folder, workspace="out-ray", engine="ray").model_dump(mode="json"))
    assert hashes(folder / "out/restored") == hashes(folder / "out-ray/restored")
    asked = "SELECT image_id, face, stage, stage_digest, state, reason_code FROM latest ORDER BY ALL"
    rows = [Ledger.open(Storage(folder / name), create=False).query(asked) for name in ("out", "out-ray")]
    assert rows[0].equals(rows[1])


def test_one_picture_is_restored_beside_itself_and_nothing_else_is_looked_at(folder, monkeypatch):
    summary = restored(folder, source="photos/one.png", workspace="photos/out")
    assert (summary.found, summary.outcomes["restored"]) == (1, 1)
    assert [p.name for p in (folder / "photos/out/restored").rglob("*")] == ["one.png"]
    summary = restored(folder, source="photos/two.png", workspace="photos/out")
    assert (summary.found, summary.outcomes["restored"]) == (2, 2), "the first one is still there"


def test_pictures_of_one_name_from_two_folders_do_not_meet(folder):
    restored(folder, source="photos/one.png")
    before = hashes(folder / "out/restored")
    with pytest.raises(JobError, match=r"holds pictures of .*photos; choose another folder"):
        restored(folder, source="photos/deeper/one.png")
    assert hashes(folder / "out/restored") == before


def test_a_picture_may_not_lie_in_its_workspace(folder):
    with pytest.raises(JobError, match="lies in the workspace"):
        job(folder, source="photos/one.png", workspace="photos")


def test_what_will_not_fit_is_not_begun(folder, monkeypatch):
    needed = sum(path.stat().st_size for path in (folder / "photos").rglob("*.png"))
    monkeypatch.setattr("flows.restoration.checks.LEAST_FREE", 1)
    monkeypatch.setattr(Storage, "free_bytes", lambda storage: needed)
    with pytest.raises(JobError, match="make room, choose another workspace"):
        restored(folder)
    assert not (folder / "out/restored").exists()
    monkeypatch.setattr(Storage, "free_bytes", lambda storage: 2 * needed)
    assert restored(folder).outcomes["restored"] == 3


def test_what_needs_worker_processes_is_refused_here(folder):
    from infra.settings import SettingsError

    with pytest.raises(SettingsError, match="use engine = 'ray'"):
        restored(folder, settings={"engine": "local", "ray_address": "auto"})


class TestWhichEngine:
    def test_small_jobs_stay_here(self, folder):
        assert self.engine(folder, settings={}) == "local"

    def test_large_ones_do_not(self, folder, monkeypatch):
        from flows.cli.questions import engine

        monkeypatch.setattr(engine, "SMALL_FILES", 2)
        assert self.engine(folder, settings={}) == "ray"
        assert self.engine(folder, source="photos/one.png", settings={}) == "local"

    @pytest.mark.parametrize("settings", [{"ray_address": "auto"}, {"pools": {"cpu": 1}}, {"engine": "ray"}])
    def test_what_asks_for_a_cluster_gets_one(self, folder, settings):
        assert self.engine(folder, settings=settings | {"device": "cpu"}) == "ray"

    def test_a_run_that_did_not_finish_goes_on_where_a_killer_is_found(self, folder):
        restored(folder)
        (facts,) = (folder / "out/runs").glob("*.json")
        facts.write_text(json.dumps(json.loads(facts.read_text()) | {"finished": False}))
        assert self.engine(folder, settings={}) == "ray"

    def engine(self, folder, **asked):
        from flows.cli.questions.engine import placed

        return placed(job(folder, recipe="compact", **asked)).load_settings().engine
