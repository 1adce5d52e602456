"""Measures restored pictures against their inputs: pair, plan, measure portion by portion, add up, report.

It stands on the same engine as the restoration: in a flow run Prefect sees a portion, workers get micro-batches of
pairs, and the ledger in the evaluation folder knows every face under every metric. A second run measures only what it
lacks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flows.evaluation import plan as evaluation_plan
from flows.evaluation import totals as evaluation_totals
from flows.evaluation.page import write_evaluation_report
from flows.evaluation.plan import Portion, Work
from flows.evaluation.run import EvaluationRun, open_evaluation_run
from flows.evaluation.totals import ROW
from flows.jobs import EvaluationJob
from flows.restoration import REPORT
from flows.session import CachedStep, each_in_flight, never_fatal, step, watched
from infra.ledger import Event
from infra.storage import Storage
from tasks.measuring import FACES, Evaluation, EvaluationTold, PairItem, PairResult, given_up, write_evaluation
from tasks.stage import WHOLE_IMAGE

if TYPE_CHECKING:
    import pyarrow as pa

    from infra.workers import Done, Failure

BATCH = 4
"""Pairs per call of a worker: what is lost when one dies, and what one intermediate file holds."""


def evaluate(job: EvaluationJob) -> Evaluation:
    """Measures every pair of the job and writes the evaluation folder; what was measured before is not again.

    Raises JobError and SettingsError before anything is written, WorkspaceBusy where another run holds the folder,
    ExecutorError where it could not be finished (what is done is kept).
    """
    with open_evaluation_run(job, watched.get()) as run:
        pairs = pair_pictures(run)
        work = plan_measuring(run, pairs)
        if work.lacking:
            with run.workers(len(work.lacking)):
                measure(run, work)
        return finish(run, pairs)


@step("pair")
def pair_pictures(run: EvaluationRun) -> pa.Table:
    """Finds every restored picture and what belongs to it."""
    return evaluation_plan.find_pairs(run)


@step("plan")
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
    """Measures a portion. What a cache says counts only if the ledger had said the same."""
    name = f"measure · {portion.id}"
    portion_step(name, run, portion)
    if portion.id not in run.recorded:
        portion_step.afresh(name, run, portion)


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


def _work_key(run: EvaluationRun, portion: Portion) -> str:
    """Evaluation folder, pairs, and the digests of the metrics that they lack."""
    return portion.work_key(run)


portion_step = CachedStep(measure_portion, _work_key)


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


@step("add up")
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
    from prefect.artifacts import create_link_artifact, create_markdown_artifact

    create_markdown_artifact(key="evaluation", markdown=told.table, description=told.folder)
    create_link_artifact(key="evaluation-report", link=told.report, link_text="Report")
