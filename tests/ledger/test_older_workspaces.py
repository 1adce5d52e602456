"""A workspace that an earlier version wrote stays what it is: nothing is planned anew, and everything can be told.

`workspace_before_wings.tar.xz` was written by version 0.1.0 on five files (a face, its copy, a picture without faces, a
broken one, a text), before modules moved into wings and rows became records; host and folder names were taken out.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from flows.cli.questions.explain import explain
from flows.cli.questions.preview import preview
from flows.cli.questions.status import workspace_status
from flows.jobs import JobError
from flows.jobs.restoration import Job
from flows.session import session
from infra.ledger.ledger import Ledger
from infra.ledger.rows import events_of
from infra.storage.storage import Storage
from tasks.measuring.metrics import AFTER, BEFORE
from tasks.stage import StageSettings
from tasks.stages.detect_align import DetectAlign
from tasks.stages.paste_back import PasteBack, PasteBackSettings
from tasks.stages.score import Evaluate

RECIPE = Path(__file__).with_name("compact_before_wings.toml")
"""The recipe compact of that time."""
OLD = Path(__file__).with_name("workspace_before_wings.tar.xz")


@pytest.fixture
def old(tmp_path, monkeypatch):
    """The folder with archive and workspace, on a machine that has the weights of that time."""
    with tarfile.open(OLD) as packed:
        packed.extractall(tmp_path, filter="data")
    (facts,) = [json.loads(path.read_text()) for path in (tmp_path / "ws" / "runs").glob("*.json")]
    monkeypatch.setattr(session, "present_weights", lambda recipe, settings: facts["weights"])
    return tmp_path


@pytest.fixture
def as_it_was(monkeypatch):
    """The stages whose results have changed since, with the versions of their code of that time."""
    for stage, version in ((DetectAlign, 2), (PasteBack, 2), (Evaluate, 1)):
        monkeypatch.setattr(stage, "code_version", version)
    monkeypatch.setattr(PasteBack, "writes", ())
    monkeypatch.setattr(Evaluate, "reads", (BEFORE, AFTER))
    dump = StageSettings.model_dump
    monkeypatch.setattr(PasteBackSettings, "model_dump", lambda self, **how: dump(self, **how, exclude={"tone"}))


def job(folder, recipe=RECIPE):
    return Job(
        source=str(folder / "archive"), workspace=str(folder / "ws"), recipe=str(recipe), settings={"device": "cpu"}
    )


def test_what_gives_other_results_today_is_done_again(old):
    assert preview(job(old, "compact"), preflight=False).why == {"stale": 3}


def test_nothing_is_planned_anew(old, as_it_was):
    told = preview(job(old), preflight=False)
    assert (told.images, told.why) == (0, {})
    assert (told.found, told.problems) == (5, {"not_an_image": 1})
    stale = preview(job(old).model_copy(update={"stages": {"paste_back": {"strength": 0.5}}}), preflight=False)
    assert stale.why == {"stale": 3}


def test_its_rows_are_read_and_its_files_told(old):
    ledger = Ledger.open(Storage(old / "ws"), create=False)
    events = list(events_of(ledger.latest()))
    verdicts = {event.outcome for event in events if event.stage == "commit"}
    assert verdicts == {"restored", "left_alone", "quarantined"}
    (face,) = [event for event in events if event.stage == "detect_align" and event.face == 0]
    assert {"points", "matrix"} <= face.detail.keys()
    (scored,) = [event for event in events if event.stage == "evaluate"]
    assert scored.metrics["quality.final"] > scored.metrics["quality.input"]
    assert "portrait.jpg" in str(explain("portrait.jpg", str(old / "ws")))
    assert workspace_status(str(old / "ws"), reasons=True)


@pytest.mark.parametrize("folder", ["archive", "ws/restored"])
def test_a_file_is_told_by_its_content_wherever_it_was_moved(old, folder):
    moved = old / "elsewhere.jpg"
    moved.write_bytes((old / folder / "portrait.jpg").read_bytes())
    told = explain(str(moved), str(old / "ws"))
    assert told.path == "copy.jpg", "the first of its two names"
    assert {step.stage: step.network for step in told.stages}["pisa_sr"] == "compact_restorer"


def test_a_content_that_nobody_knows_is_no_file_of_the_archive(old):
    (old / "other.jpg").write_bytes(b"another")
    with pytest.raises(JobError, match="nor its content"):
        explain(str(old / "other.jpg"), str(old / "ws"))
