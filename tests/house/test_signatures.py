"""What one can ask for has one name everywhere: a job's field, its flow's parameter, its command's option."""

from __future__ import annotations

import inspect

import pytest

from flows.cli import measure, restore
from flows.cli.options import asked
from flows.jobs import BenchmarkJob, ComparisonJob, EvaluationJob, Job, JobError, evaluation_job

NAMED_BY_A_DATA_SET = {"dataset"}
"""What a flow resolves into the job's other fields."""
ANSWERS = {"json_", "preflight", *restore.SETTINGS}
"""Options that say how to answer, or are single settings."""


def names_of(function):
    return set(inspect.signature(getattr(function, "fn", function)).parameters)


def flow(module, name):
    return getattr(pytest.importorskip(f"flows.{module}"), name)


@pytest.mark.parametrize(
    ("job", "name"),
    [
        (Job, "restore_dataset"),
        (EvaluationJob, "evaluate_dataset"),
        (ComparisonJob, "compare_recipes"),
        (BenchmarkJob, "benchmark_recipes"),
    ],
)
def test_a_flow_asks_for_what_its_job_holds(job, name):
    assert names_of(flow(name, name)) | NAMED_BY_A_DATA_SET == set(job.model_fields) | NAMED_BY_A_DATA_SET


@pytest.mark.parametrize(
    ("job", "command", "set_elsewhere"),
    [
        (Job, restore.run, {"retry", "stages", "files"}),  # `mpsr retry`; --set knows stages; a source may be a file
        (Job, restore.plan, {"retry", "stages", "files"}),
        (EvaluationJob, measure.evaluate, {"detector"}),  # only a comparison hands it on
        (ComparisonJob, measure.compare, set()),
        (BenchmarkJob, measure.benchmark, set()),
    ],
)
def test_a_command_offers_what_its_job_holds(job, command, set_elsewhere):
    own = ANSWERS - set(job.model_fields)
    assert names_of(command) - own == set(job.model_fields) - set_elsewhere


def test_the_night_is_asked_for_what_a_restoration_is():
    night = names_of(flow("reprocess_nightly", "reprocess_nightly"))
    assert night - {"gate", "again"} == names_of(flow("restore_dataset", "restore_dataset")) - {
        "retry",
        "stages",
        "files",
    }


def test_options_become_fields_and_what_was_not_given_has_the_jobs_default():
    options = {"metrics": "niqe, sharpness,", "sample": None, "settings": ["workers=2"], "json_": True}
    job = evaluation_job(restored="a", against="b", **asked(EvaluationJob, options))
    assert (job.metrics, job.sample, job.settings) == (("niqe", "sharpness"), None, {"workers": 2})
    assert evaluation_job(**job.model_dump(mode="json")) == job, "a flow makes the same job of it"
    assert BenchmarkJob(output="out", recipes=None, settings=None) == BenchmarkJob(output="out")


@pytest.mark.parametrize(("job", "wrong"), [(ComparisonJob, {"confidence": 2}), (BenchmarkJob, {"limit": 0})])
def test_a_value_that_cannot_be_names_itself(job, wrong):
    needed = {name: "x" for name, field in job.model_fields.items() if field.is_required()}
    ((name, value),) = wrong.items()
    with pytest.raises(JobError, match=f"{name}: .*, got {value}"):
        job.of(**needed, **wrong)
