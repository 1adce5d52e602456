"""The flow: a data set, or results and their inputs, as a job; the story itself is told in flows.evaluation.story."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.evaluation import evaluate, told_of
from flows.jobs import evaluation_job, output_of
from flows.session import dated_name
from infra.storage import Storage
from tasks.measuring import EvaluationTold


@flow(name="evaluate-dataset", flow_run_name=dated_name("evaluate", "restored", "dataset"), persist_result=False)
def evaluate_dataset(
    restored: str | None = None,
    against: str | None = None,
    truth: str | None = None,
    dataset: str | None = None,
    landmarks: str | None = None,
    output: str | None = None,
    metrics: list[str] | None = None,
    aligned: bool | None = None,
    detector: dict[str, Any] | None = None,
    sample: float | None = None,
    settings: dict[str, Any] | None = None,
) -> EvaluationTold:
    """Measures restored pictures and writes an evaluation folder; returns what its evaluation.json says.

    Name a workspace or folder and the inputs it was made from; a data set of data_manifests/ says both, and how it is
    judged. Running it again resumes, and a further metric computes only itself.
    """
    job = evaluation_job(**locals())
    return told_of(evaluate(job), Storage(output_of(job)))
