"""A night under a changed recipe: restore beside, measure both, promote what is within the bounds, keep the rest.

What is stale is restored into a candidate workspace of its own; older and new results are measured against the same
originals; `tasks.comparing` decides; `flows.gate.moves` moves the files. Nothing that stands is touched before the
decision is written down.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from flows.gate import journal as journals
from flows.gate.candidate import forget, restore_beside, share_intermediates
from flows.gate.journal import PROMOTIONS, REMEMBERED, Bounds, Journal, Move, RolledBack
from flows.gate.moves import carry_out, deliver_kept, take_back
from flows.gate.words import in_short, markdown
from flows.jobs import Job, workspace_at
from flows.restoration import Plan, Run, find_pictures, finish, open_run, paths_by_image, plan_work, restore_shards
from flows.session import Progress, Session, Summary, never_fatal, step, watched
from infra.ledger import COMMIT, OPEN_STATES, Event, Lease, Ledger, bucket_sql, events_of
from infra.storage import Storage
from tasks.comparing import NOTHING_TO_JUDGE, Case, Decision, below_floors, decide, only
from tasks.measuring import Evaluation, gate_metrics, write_evaluation

LACKING = {"new_path", "missing"}
"""Why a picture is planned of which only files lack."""
BEFORE = "evaluation-nightly"
"""The folder with the measures of the results that stand."""


@dataclass(frozen=True)
class Findings:
    """What was measured of older and new results, and what follows from it."""

    decision: Decision
    below: Mapping[str, str]
    evaluations: Mapping[str, Evaluation]


def run_night(job: Job, *, again: bool = False) -> Summary:
    """Restores what is new; where results have become stale, lets them be replaced only within the bounds.

    With `again` pictures whose older result was kept or brought back are decided about once more. Returns the totals
    with what was decided.
    """
    with open_run(job, watched.get() or Progress()) as run:
        news = finish_begun(run) + find_pictures(run)
        plan = _without_kept(run, plan_work(run))
        work, journal = _with_kept(run, plan) if again else plan, None
        if work.counts.get("stale"):
            run.course.forecast = None  # it foresaw another way
            journal = promote(run, work)
        elif plan.images:
            with run.workers(plan.images):
                restore_shards(run, plan)
                run.course.mark("worked")
        totals = finish(run, plan, changed=bool(news or work.images))
        totals = totals.model_copy(update={"promotion": journal and journal.told()})
        run.write_facts(finished=True, finished_at=datetime.now(UTC).isoformat(), summary=totals)
        return totals


def promote(run: Run, work: Plan) -> Journal:
    """The gate: candidate, measures, decision, and what follows from it."""
    candidate = restore_beside(run, work)
    found = judge(run, work, candidate)
    journal = write_down(run, work, candidate, found)
    put_in_place(run, journal)
    return journal


def finish_begun(run: Run) -> int:
    """Brings promotions and rollbacks that were cut short to their end; returns how many there were."""
    begun = [journal for journal in journals.every(run.workspace) if journal.is_begun]
    for journal in begun:
        if journal.state == "planned":
            put_in_place(run, journal)
        else:
            take_back(run.session, journal, again=journal.again)
    return len(begun)


def judge(run: Run, work: Plan, candidate: Run) -> Findings:
    """Measures where there is something to be told apart, and decides."""
    judged: list[str] = []
    anything = False
    for case in _cases(run, work, candidate):
        judged += case.paths[:1] if case.differs else ()  # copies of one picture are no further witnesses
        anything = anything or case.differs or case.older_result is None
    if not anything:
        return Findings(NOTHING_TO_JUDGE, {}, {})
    before, after = measure_both(run, candidate)
    bounds, paths = run.settings.promotion, pa.array(judged, pa.string())
    decision = decide(only(before, paths), only(after, paths), bounds) if judged else NOTHING_TO_JUDGE
    return Findings(decision, below_floors(after, bounds), {"before": before, "after": after})


def measure_both(run: Run, candidate: Run) -> tuple[Evaluation, Evaluation]:
    """Older and new results against the originals; what was measured on an earlier night is not measured again."""
    from flows.evaluation import evaluate
    from flows.jobs import EvaluationJob

    detector = getattr(run.recipe.stages[0].settings, "detector", None)
    job = EvaluationJob(
        restored=candidate.workspace.url,
        against=run.job.source,
        metrics=run.settings.promotion.metrics or gate_metrics(),
        aligned=True if detector == "none" else None,
        settings=run.job.settings,
    )
    url = run.workspace.url.rstrip("/")
    before = evaluate(job.model_copy(update={"restored": url, "output": f"{url}/{BEFORE}"}))
    return before, evaluate(job)


def write_down(run: Run, work: Plan, candidate: Run, found: Findings) -> Journal:
    """Writes what is to become of every picture, then that it is so decided. No file has moved yet."""
    counts, reasons = Counter[str](), Counter[str]()

    def moves() -> Iterator[Move]:
        for case in _cases(run, work, candidate):
            action, why = case.settled(found.decision, found.below)
            counts[action] += 1
            if action in ("keep", "original"):
                reasons[in_short(why)] += 1
            yield Move(
                image_id=case.image_id,
                bucket=case.bucket,
                paths=case.paths,
                planned=case.why,
                action=action,
                why=why,
                differs=case.differs,
                old=case.old,
            )

    journals.write_moves(run.workspace, run.id, moves())
    for name, evaluation in found.evaluations.items():
        folder = Storage(f"{run.workspace.url.rstrip('/')}/{PROMOTIONS}/{run.id}/{name}", run.workspace.options)
        write_evaluation(folder, evaluation.facts, evaluation.faces)
    journal = Journal(
        id=run.id,
        digest=run.digests[COMMIT],
        recipe=run.recipe.name,
        candidate=candidate.workspace.url.removeprefix(run.workspace.url.rstrip("/") + "/"),
        counts=dict(counts),
        reasons=dict(reasons.most_common(20)),
        decision=found.decision.facts(),
        bounds=Bounds(**run.settings.promotion.model_dump()),
    )
    journals.write(run.workspace, journal)
    return journal


@step("promote")
def put_in_place(run: Run, journal: Journal) -> None:
    """Does what the journal says; doing so twice changes nothing. A refused candidate stays, to be looked at."""
    carry_out(run.session, journal, run.source)
    if journal.decision.promote and journal.state == "applied":
        share_intermediates(run.workspace, f"{journal.candidate}/", "", room=run.settings.keep_intermediates_gb)
        forget(run.workspace, journal.candidate)
    _tell(run, journal)


def roll_back(workspace: str, promotion: str | None, *, again: bool) -> RolledBack:
    """Takes a promotion back, by default the newest that stands. Raises JobError where that cannot be."""
    storage = workspace_at(workspace)
    journal, pictures = journals.find(storage, promotion), 0
    if journal.state != "rolled_back":
        owner = f"rollback of {journal.id}"
        with Lease.acquire(storage, owner=owner) as lease:
            session = Session(owner, time.time(), storage, lease, Ledger.open(storage, create=False))
            pictures = take_back(session, journal, again=again)
    return RolledBack(pictures=pictures, **journal.told().model_dump())


def _cases(run: Run, work: Plan, candidate: Run) -> Iterator[Case]:
    """Every planned picture that the candidate has come to a verdict about."""
    for bucket, pictures in _pictures(run, work):
        old, new = (_verdicts(ledger, bucket) for ledger in (run.ledger, candidate.ledger))
        for image_id, (why, paths) in pictures.items():
            verdict = new.get(image_id)
            if verdict is not None and verdict.state not in OPEN_STATES:
                yield Case(image_id, bucket, paths, why, old.get(image_id), verdict)


def _pictures(run: Run, work: Plan) -> Iterator[tuple[int, dict[str, tuple[str, tuple[str, ...]]]]]:
    """Bucket by bucket, of every planned picture why it is planned and which paths hold it."""
    for bucket, rows in work.by_bucket("image_id", "why"):
        paths = paths_by_image(run.ledger, bucket)
        yield bucket, {image_id: (why, paths.get(image_id, ())) for image_id, why in rows}


def _verdicts(ledger: Ledger, bucket: int) -> dict[str, Event]:
    """image_id → the verdict, with what a journal remembers of it."""
    table = ledger.latest(stage=COMMIT, bucket=bucket, columns=["image_id", *REMEMBERED])
    return {event.image_id: event for event in events_of(table)}


def _without_kept(run: Run, plan: Plan) -> Plan:
    """The plan without pictures whose older result was kept: a path that lacks it gets that, not the recipe's."""
    if not LACKING & plan.counts.keys():
        return plan
    delivered: list[str] = []
    for _, pictures in _pictures(run, plan):
        lacking = {image_id: paths for image_id, (why, paths) in pictures.items() if why in LACKING}
        delivered += deliver_kept(run.session, lacking, run.digests[COMMIT])
    known = pc.is_in(plan.table["image_id"], value_set=pa.array(delivered, pa.string()))
    return _plan_of(plan, plan.table.filter(pc.invert(known)))


def _with_kept(run: Run, plan: Plan) -> Plan:
    """The plan with pictures whose older result was kept under this very recipe."""
    sql = f"""
        SELECT image_id, {bucket_sql(run.ledger.buckets)} AS bucket, 'stale' AS why FROM commits
        WHERE stage_digest = ? AND detail LIKE '%"kept": true%'
        AND image_id IN (SELECT image_id FROM inventory WHERE present AND problem IS NULL)"""
    kept = run.ledger.query(sql, [run.digests[COMMIT]])
    columns = kept.column_names
    table = pa.concat_tables([plan.table.select(columns).cast(kept.schema), kept])
    return _plan_of(plan, table.sort_by([("bucket", "ascending"), ("image_id", "ascending")]))


def _plan_of(plan: Plan, table: pa.Table) -> Plan:
    return replace(plan, table=table, counts=Counter(table["why"].to_pylist()))


def _tell(run: Run, journal: Journal) -> None:
    """The decision as a page, beside the journal and in the dashboard."""
    text = markdown(journal)
    run.workspace.write_atomic(f"{PROMOTIONS}/{journal.id}.md", text.encode())
    _publish(text)


@never_fatal
def _publish(text: str) -> None:
    from prefect.artifacts import create_markdown_artifact

    create_markdown_artifact(key="promotion", markdown=text, description="What the nightly gate decided, and why")
