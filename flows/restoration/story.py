"""The whole story: find the pictures, plan what is to be done, take every shard through the recipe, report.

In a flow run Prefect sees one task run per stage of a shard, elsewhere the same steps are plain calls; workers get
micro-batches; the ledger knows every image at every stage and is the only truth. A second run plans again from it, and
so resumes whatever the first one left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache, partial
from itertools import islice

from flows.jobs import Job, JobError, known_of, looked_at
from flows.restoration import dashboard, forecast
from flows.restoration.checks import refuse_too_small
from flows.restoration.delivered import DISPLACED, deliver, make_way, sweep
from flows.restoration.page import REPORT, write_run_report
from flows.restoration.plan import Plan, make_plan
from flows.restoration.run import Run, open_run, prior_events
from flows.restoration.shard import Shard
from flows.restoration.totals import summary
from flows.session import CachedStep, RunStopped, Summary, each_in_flight, step, watched
from infra.ledger import COMMIT, Event, FileRow, unreadable_id
from infra.workers import Failure
from tasks.archive import READ_AGAIN, scan_archive
from tasks.pictures import Limits
from tasks.recipes import RecipeStage

INVENTORY_SEGMENT = 50_000
"""Inventory rows per segment."""


def restore(job: Job) -> Summary:
    """The story itself."""
    with open_run(job, watched.get()) as run:
        news = find_pictures(run)
        plan = plan_work(run)
        if plan.images:
            with run.workers(plan.images):
                restore_shards(run, plan)
                run.course.mark("worked")
        return finish(run, plan, changed=bool(news or plan.images))


@step("scan")
def find_pictures(run: Run) -> int:
    """Looks at every file of the archive; what has not changed since the last scan is not read again."""
    job = run.job
    limits = Limits(max_pixels=run.settings.max_pixels)
    source, known = looked_at(job, run.source), known_of(job, run.ledger)
    if next(source.walk(), None) is None and any(row.present for row in known.values()):
        raise JobError(
            f"the archive {run.source.shown_url} is empty now, and was not at the last run: is it mounted? If it was "
            "emptied on purpose there is nothing to run; the restored files stay where they are"
        )
    rows = scan_archive(source, known, include=job.include, exclude=job.exclude, limits=limits)
    news = 0
    while part := list(islice(rows, INVENTORY_SEGMENT)):
        _make_way(run, known, part)  # before the ledger knows: a run that dies between the two does it once more
        run.session.record_files(part)
        news += len(part)
    if news >= INVENTORY_SEGMENT:
        run.ledger.fold()  # every question from here on asks the inventory
    return news


@step("plan")
def plan_work(run: Run) -> Plan:
    """Compares the archive with the ledger: what is new, changed, stale under this recipe, or worth another try."""
    plan = make_plan(run)
    refuse_too_small(plan, run.workspace)
    forecast.at_the_plan(run, plan)
    run.progress.planned(plan.images)
    dashboard.plan(run, plan)
    return plan


def restore_shards(run: Run, plan: Plan) -> None:
    """Takes shards through the recipe, a bounded number at a time, so that a slow stage never idles a fast one."""
    each_in_flight(
        plan.shards(run),
        lambda shard: run.patience.with_(lambda: restore_shard(run, plan, shard)),
        run.settings.shards_in_flight,
        abandon=run.abandon,
        meanwhile=lambda: dashboard.progress(run),
    )


def restore_shard(run: Run, plan: Plan, shard: Shard) -> None:
    """One shard through every stage of the recipe, then its verdicts. Doing so twice does no harm."""
    if plan.has_history:
        shard.adopt(prior_events(run, shard), cache(run.workspace.exists), partial(deliver, run.workspace))
    settle_stages(run, shard)
    if shard.forget_lost(run.workspace.exists):
        settle_stages(run, shard)
    verdicts = shard.verdicts()
    run.session.record(shard.bucket, COMMIT, verdicts)
    run.keep_or_drop(shard)
    run.count(shard, verdicts)


def settle_stages(run: Run, shard: Shard) -> None:
    """Every stage of the recipe at which something is left to do."""
    for stage in run.recipe.stages:
        if not shard.complete(stage):
            run.session.record(shard.bucket, COMMIT, shard.replaced_by(stage))
            settled_stage(run, shard, stage)


def settled_stage(run: Run, shard: Shard, stage: RecipeStage) -> None:
    """Runs a stage of a shard. What a cache says counts only if the ledger says the same."""
    name = f"{stage.id} · {shard.id}"
    stage_step(name, run, shard, stage)
    if not shard.complete(stage):
        shard.adopt(prior_events(run, shard), run.workspace.exists, partial(deliver, run.workspace))
    if not shard.complete(stage):
        stage_step.afresh(name, run, shard, stage)


def restore_stage(run: Run, shard: Shard, stage: RecipeStage) -> dict[str, int]:
    """One stage of one shard on the workers; returns the counts of its outcomes."""
    items, events = shard.items(stage)
    answered = 0
    for done in run.executor.map(stage.id, items, run.settings.micro_batch or stage.batch_size):
        if done.failure is None:
            shard.left(done.results)
            events += [
                result.event if done.attempt == 1 else replace(result.event, attempt=done.attempt)
                for result in done.results
            ]
        else:
            events.append(_given_up(run, shard, stage, done.failure))
        worked = [result.event.device_ms or 0.0 for result in done.results if not result.reused]
        reused = len(done.results) - len(worked)
        run.progress.advanced(stage.id, len(done.results), reused=reused, seconds=sum(worked) / 1000)
        answered += done.items
        run.advanced(shard, stage, answered / len(items))
    run.session.record(shard.bucket, stage.id, events)
    shard.apply(stage, events)
    return dashboard.outcomes(events)


def _work_key(run: Run, shard: Shard, stage: RecipeStage) -> str:
    """Workspace, stage digest and members: the same work in the same place, whichever run asks."""
    return shard.work_key(stage, run.workspace.url)


stage_step = CachedStep(restore_stage, _work_key)


def finish(run: Run, plan: Plan, *, changed: bool) -> Summary:
    """Folds the ledger, writes totals and report, holds the forecast to what it took, and tells the dashboard."""
    run.session.lease.check()
    run.ledger.fold()
    totals = summary(run)
    run.write_facts(finished=True, finished_at=datetime.now(UTC).isoformat(), summary=totals)
    if changed or not run.workspace.exists(REPORT):
        write_run_report(run)
    totals = totals.model_copy(update={"forecast": forecast.at_the_end(run, plan)})
    run.write_facts(finished=True, finished_at=datetime.now(UTC).isoformat(), summary=totals)
    run.workspace.delete_tree(DISPLACED)
    if changed:
        sweep(run.workspace)
    run.progress.summary = totals
    dashboard.finished(run, totals, run.workspace.full_path(REPORT))
    return totals


def _make_way(run: Run, known: Mapping[str, FileRow], news: list[FileRow]) -> None:
    """A path that holds another picture now must not show the earlier one's result. What was not read tells nothing."""
    read = [row for row in news if row.present and row.problem not in READ_AGAIN]
    before = {row.path: known.get(row.path) or _forgotten(run, row.path) for row in read}
    changed = [(b, row) for row in read if (b := before[row.path]) and b.image_id != row.image_id]
    if not changed:
        return
    columns, ids = ["image_id", "output_sha256"], sorted({row.image_id for _, row in changed})
    verdicts = run.ledger.latest(stage=COMMIT, image_ids=ids, columns=columns).to_pylist()
    make_way(run.workspace, changed, {row["image_id"]: row["output_sha256"] for row in verdicts})


def _forgotten(run: Run, path: str) -> FileRow | None:
    """What stands for an unknown picture at a path: where rows of the inventory were lost there may have been one."""
    return FileRow(path=path, image_id=unreadable_id(path)) if run.session.set_aside else None


def _given_up(run: Run, shard: Shard, stage: RecipeStage, failure: Failure) -> Event:
    """The event of an item that no worker could finish. A workspace that takes no more is not the item's fault."""
    if failure.kind == "unwritable":
        raise RunStopped(f"the workspace {run.workspace.shown_url} takes no more: {failure.reason}")
    run.progress.failed(stage.id, failure.reason)
    return shard.given_up(stage, failure)
