"""Measures restored pictures against their inputs: pair, plan, measure portion by portion, add up, report.

It stands on the same engine as the restoration: Prefect sees a portion, Ray actors get micro-batches of pairs, and the
ledger in the evaluation folder knows every face under every metric. A second run measures only what it lacks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from prefect import flow, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext

from flows.evaluation import ROW, EvaluationRun, Portion, Work, open_evaluation_run, write_evaluation_report
from flows.evaluation import plan as evaluation_plan
from flows.evaluation import totals as evaluation_totals
from flows.jobs import EvaluationJob, evaluation_job, output_of
from flows.restoration import REPORT
from flows.session import dated_name, each_in_flight, never_fatal, watched, worth_retrying
from infra.ledger import Event
from infra.storage import Storage
from tasks.measuring import FACES, Evaluation, EvaluationTold, PairItem, PairResult, given_up, write_evaluation
from tasks.stage import WHOLE_IMAGE

if TYPE_CHECKING:
    import pyarrow as pa

    from infra.workers import Done, Failure

BATCH = 4
"""Pairs per call of a worker: what is lost when one dies, and what one intermediate file holds."""


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


def evaluate(job: EvaluationJob) -> Evaluation:
    """Measures every pair of the job and writes the evaluation folder; what was measured before is not again.

    Raises JobError and SettingsError before anything is written, WorkspaceBusy where another run holds the folder,
    ExecutorError where it could not be finished (what is done is kept).
    """
    with open_evaluation_run(job, watched.get()) as run:
        pairs = pair_pictures(run)
        work = plan_measuring(run, pairs)
        if work.lacking:
            with run.workers():
                measure(run, work)
        return finish(run, pairs)


@task(name="pair", cache_policy=NO_CACHE)
def pair_pictures(run: EvaluationRun) -> pa.Table:
    """Finds every restored picture and what belongs to it."""
    return evaluation_plan.find_pairs(run)


@task(name="plan", cache_policy=NO_CACHE)
def plan_measuring(run: EvaluationRun, pairs: pa.Table) -> Work:
    """Compares the pairs with the ledger: which metric is lacking of which."""
    work = evaluation_plan.plan(run, pairs)
    run.progress.planned(len(work.lacking))
    return work


def measure(run: EvaluationRun, work: Work) -> None:
    """Measures portions, a bounded number at a time, so that no worker waits for the last pair of one."""
    each_in_flight(
        work.portions(run),
        lambda portion: measured_portion(run, portion),
        run.settings.shards_in_flight,
        abandon=run.executor.cancel,
    )


def measured_portion(run: EvaluationRun, portion: Portion) -> None:
    """Measures a portion as a Prefect task. What a cache says counts only if the ledger had said the same."""
    named = measure_portion.with_options(task_run_name=f"measure · {portion.id}")
    named(run=run, portion=portion)
    if portion.id not in run.recorded:
        named.with_options(refresh_cache=True)(run=run, portion=portion)


def _cache_key(context: TaskRunContext, parameters: dict[str, Any]) -> str:
    """Evaluation folder, pairs, and the digests of the metrics that they lack."""
    portion: Portion = parameters["portion"]
    return portion.work_key(parameters["run"])


@task(
    name="measure",
    retries=2,
    retry_delay_seconds=[2, 10],
    retry_jitter_factor=0.5,
    cache_key_fn=_cache_key,
    persist_result=True,
    result_serializer="json",
    retry_condition_fn=lambda task, run, state: worth_retrying(state),
)
def measure_portion(run: EvaluationRun, portion: Portion) -> dict[str, int]:
    """One portion on the workers, and into the ledger; returns the counts of its outcomes."""
    results: list[PairResult] = []
    for done in run.executor.map("measure", portion.items, run.settings.micro_batch or BATCH):
        results += [_given_up(run, done.failure)] if done.failure else done.results
        _show(run, done)
    record(run, portion, results)
    outcomes = [result.reason_code for result in results if result.face == WHOLE_IMAGE]
    run.progress.committed(outcomes)
    return dict(Counter(outcomes))


def record(run: EvaluationRun, portion: Portion, results: Sequence[PairResult]) -> None:
    """Writes a portion's rows: first each metric's, then those that say which faces there are."""
    by_stage: dict[str, list[Event]] = {}
    for result in results:
        for event in result.events:
            by_stage.setdefault(event.stage, []).append(event)
    for stage in sorted(by_stage, key=lambda stage: stage == FACES):
        run.session.record(portion.bucket, stage, by_stage[stage])
    run.drop_checkpoints(results)
    run.recorded.add(portion.id)


@task(name="add up", cache_policy=NO_CACHE)
def finish(run: EvaluationRun, pairs: pa.Table) -> Evaluation:
    """Folds the ledger, writes the numbers and their page, and tells the dashboard where they are."""
    run.session.lease.check()
    run.ledger.fold()
    totals = evaluation_totals.add_up(run, pairs)
    evaluation = evaluation_totals.evaluation_of(run, totals)
    evaluation_totals.write_tables(run, totals)
    write_evaluation(run.folder, evaluation.facts, evaluation.faces)
    write_evaluation_report(run.folder, None if run.settings.report_thumbnails else False)
    _publish(told_of(evaluation, run.folder))
    return evaluation


def told_of(evaluation: Evaluation, folder: Storage) -> EvaluationTold:
    """What is answered about the evaluation in a folder."""
    table, report = folder.read_bytes(ROW).decode(), folder.full_path(REPORT)
    return EvaluationTold(**evaluation.facts.model_dump(), table=table, report=report)


def _given_up(run: EvaluationRun, failure: Failure) -> PairResult:
    run.progress.failed("measure", failure.reason)
    item: PairItem = failure.item
    return given_up(item, failure.reason_code, failure.reason, run.digests)


def _show(run: EvaluationRun, done: Done) -> None:
    """Tells the progress what a micro-batch took, metric by metric."""
    results: Sequence[PairResult] = done.results
    for result in results:
        for event in result.events:
            if event.device_ms is not None:
                seconds = 0.0 if result.reused else event.device_ms / 1000
                run.progress.advanced(event.stage, 1, reused=int(result.reused), seconds=seconds)


@never_fatal
def _publish(told: EvaluationTold) -> None:
    """The table beside the published ones, for the dashboard."""
    create_markdown_artifact(key="evaluation", markdown=told.table, description=told.folder)
    create_link_artifact(key="evaluation-report", link=told.report, link_text="Report")
