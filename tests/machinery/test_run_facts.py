"""What runs write down about themselves is read again, whichever version wrote it."""

from __future__ import annotations

import json

import pytest

from flows.jobs import Job, JobError
from flows.session.facts import (
    RanRecipe,
    RunFacts,
    StageTotal,
    Summary,
    digests_of_run,
    facts_of_every_run,
    last_job,
    last_run_facts,
    write_run_facts,
)
from infra.storage.storage import Storage
from tasks.recipes import load_recipe


@pytest.fixture
def workspace(tmp_path):
    return Storage(tmp_path)


def test_what_was_written_is_read_again(workspace):
    job = Job(source="/photos", workspace=workspace.url, include=("*.jpg",), settings={"workers": 2})
    facts = RunFacts(
        run_id="20260101T000000-aaaaaa",
        job=job.model_dump(),
        recipe=RanRecipe.model_validate(load_recipe("compact").to_dict()),
        digests={"commit": "d"},
        summary=Summary(found=2, outcomes={"restored": 2}, stages={"pisa_sr": StageTotal(items=2, seconds=0.5)}),
        finished=True,
    )
    write_run_facts(workspace, facts)
    assert last_run_facts(workspace) == facts
    assert last_job(workspace.url) == job
    written = json.loads(workspace.read_bytes(f"runs/{facts.run_id}.json"))
    assert (written["schema"], written["summary"]["schema"]) == (1, 1)
    assert written["recipe"] == load_recipe("compact").to_dict(), "the recipe is kept whole"


def test_the_files_of_other_versions_are_read(workspace):
    ancient = {"digests": {"commit": "d"}}
    other = {
        "run_id": "20260102T000000-bbbbbb",
        "job": {"source": "/photos", "workspace": "/ws", "of another version": 1},
        "recipe": {"name": "odd", "stage": [{"id": "detect_align", "of another version": 1}], "more": 2},
        "summary": {"seconds": 3.5, "of another version": 1},
        "more": {},
    }
    for run_id, facts in (("20260101T000000-aaaaaa", ancient), (other["run_id"], other)):
        workspace.write_atomic(f"runs/{run_id}.json", json.dumps(facts).encode())
    first, last = facts_of_every_run(workspace)
    assert (first.digests, first.finished, first.summary, first.with_pictures) == ({"commit": "d"}, False, None, True)
    assert (last.job.source, [stage.id for stage in last.recipe.stage]) == ("/photos", ["detect_align"])
    assert last.summary.seconds == 3.5
    assert digests_of_run(workspace, "20260101T000000-aaaaaa") == {"commit": "d"}
    assert digests_of_run(workspace, "20260103T000000-cccccc") == {}


def test_where_nothing_ever_ran_that_is_said(workspace):
    with pytest.raises(JobError, match="nothing ever ran"):
        last_job(workspace.url)


@pytest.mark.parametrize("damaged", [b"", b"{", b"\xff", b'{"digests": 3}'])
def test_a_damaged_run_file_is_named_and_what_to_do_is_said(tmp_path, damaged):
    storage = Storage(tmp_path)
    storage.write_atomic("runs/20260101T000000-aa.json", damaged)
    with pytest.raises(JobError, match=r"runs/20260101T000000-aa\.json .*move it out"):
        last_run_facts(storage)
