"""From the ledger's histories to a report: gathers the numbers, chooses what is worth showing, tells file by file.

Histories are gone through twice, first for the numbers and then for the files; no list of them is ever kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from infra.ledger import OPEN_STATES, Books, Event, FileRow, History
from tasks.archive import OUTCOMES, REASONS, FileOutcome, VerdictDetail, outcome_of
from tasks.pages.run.choice import choose
from tasks.pages.run.records import TROUBLES, FileRecord, ReportData
from tasks.pages.run.scores import Scores, least_of, mean_of, seconds_of
from tasks.pages.shared.records import RunFacts
from tasks.pages.shared.steps import StageTallies, face_records, of_recipe

LISTED = 50_000
"""Files listed, whatever the archive: troubles first."""


def collect_run(facts: RunFacts, books: Books, faces: Mapping[str, int], histories: Iterable[History]) -> ReportData:
    """The report of a workspace after a run; scores, times and choice are those of the sampled histories.

    `books` and `faces` are the ledger's totals.
    """
    scores, tallies = Scores(), StageTallies(facts)
    images: list[str] = []
    outcomes: list[FileOutcome] = []
    sampled = 0
    for history in histories:
        sampled += len(history.files) if history.sampled else 0
        if history.sampled and history.verdict:
            events = list(of_recipe(history.events, facts.stages))
            tallies.add(events)
            scores.add(face_records(events, facts.stages))
            images.append(history.image_id)
            outcomes.append(_outcome(history.verdict))
    return ReportData(
        replace(facts, sample=sampled / books.found if books.found else 1.0),
        books,
        {outcome: faces.get(outcome, 0) for outcome in OUTCOMES},
        scores.leading(),
        scores.judge,
        scores.change,
        tuple(scores.distributions()),
        tallies.totals(),
        choose(images, outcomes, scores),
    )


def listed(data: ReportData, histories: Iterable[History]) -> Iterator[FileRecord]:
    """The files that the report lists, image by image: troubles, what was chosen, others while there is room.

    Of several files with one content the first stands for all in the gallery.
    """
    chosen = data.choice.images
    room = {True: LISTED, False: max(LISTED - data.troubles - len(chosen), 0)}
    for history in histories:
        records = [_record(data, history, file) for file in history.files]
        pictured = next((record for record in records if not record.file.problem), None)
        for record in records:
            is_trouble = record.outcome in TROUBLES
            if record is pictured and history.image_id in chosen:
                yield replace(record, chosen=data.choice.gallery.get(history.image_id, ""))
            elif room[is_trouble]:
                room[is_trouble] -= 1
                yield record


def _record(data: ReportData, history: History, file: FileRow) -> FileRecord:
    verdict = history.verdict
    if file.problem:
        outcome = REASONS[file.problem][0] if file.problem in REASONS else "failed"
        return FileRecord(file, outcome, file.problem, file.problem_text or "")
    if verdict is None or _outcome(verdict) == "pending":
        return FileRecord(file, "pending", "pending")
    faces = face_records(of_recipe(history.events, data.facts.stages), data.facts.stages)
    return FileRecord(
        file,
        _outcome(verdict),
        verdict.reason_code or "",
        verdict.reason or "",
        sum(VerdictDetail.from_detail(verdict.detail).faces.values()),
        mean_of(faces, data.measure.before if data.measure else None),
        mean_of(faces, data.measure.after if data.measure else None),
        least_of(faces, data.judge),
        seconds_of(faces),
        mean_of(faces, data.change),
        details=faces,
    )


def _outcome(verdict: Event) -> FileOutcome:
    """What the verdict means for the image's files; as the ledger counts, one that is open is pending."""
    if verdict.state in OPEN_STATES:
        return "pending"
    return VerdictDetail.from_detail(verdict.detail).outcome or outcome_of(verdict.state, verdict.reason_code or "")
