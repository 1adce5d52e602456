"""From ledger rows to a report: counts everything, chooses what is worth showing.

Pure functions over rows (dicts, or Arrow tables of them); nothing here reads files. The rows are gone through more
than once, so a generator will not do.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import numpy as np

from tasks.archive import OUTCOMES, FileOutcome, outcome_of
from tasks.pages.run.records import EVERYTHING, TROUBLES, FaceRecord, FileRecord, Measure, ReportData, RunFacts, Step
from tasks.pages.run.totals import Books, Floats, Row, Scores, detail_of, iter_once, metrics_of, rows_of
from tasks.stage import WHOLE_IMAGE

GALLERY = 160
"""Pictures shown, whatever the archive."""
LISTED = 25_000
"""Files listed beside the troubles, whatever the archive."""
TROUBLES_LISTED = 200_000
"""Troubles listed; the page may cap them lower, by bytes."""
DETAILED = 3_000
"""Files whose steps are kept."""
RANKED = 10
"""Entries in each list of extremes."""
_SHORT = 12
"""Longer or nested lists in a stage's detail (landmarks, matrices) are no decisions."""


def collect_run(facts: RunFacts, inventory: Any, commits: Any, events: Any) -> ReportData:
    """Builds the report of a workspace after a run.

    `inventory`: the latest row per path. `commits`: the latest `commit` row per image. `events`: the latest row per
    image, face and stage (other stages' and absent images' rows are passed over). Each is an Arrow table or an
    iterable of dicts that can be iterated again; raises TypeError for one that cannot.
    """
    if any(iter_once(rows) for rows in (inventory, commits, events)):
        raise TypeError("expected rows that can be gone through twice (a list, an Arrow table), got an iterator")
    books = Books(inventory, commits)
    scores = Scores(books.ordinals, events, facts)
    measure = scores.leading()
    choice = _Choice(books, scores, measure)
    files = _files(inventory, books, choice)
    rankings = {name: _positions(files, books, order) for name, order in choice.extremes.items()}
    return ReportData(
        facts=facts,
        found=books.found,
        outcomes={outcome: books.outcomes[outcome] for outcome in OUTCOMES},
        reasons=dict(books.reasons.most_common()),
        faces={outcome: books.faces[outcome] for outcome in OUTCOMES},
        gone=books.gone,
        measure=measure,
        distributions=tuple(scores.distributions()),
        stages=scores.stage_totals(facts),
        files=_with_details(files, events, facts.stages, {p for order in rankings.values() for p in order}),
        rankings=rankings,
    )


class _Choice:
    """Which images are shown: the extremes, and a gallery drawn evenly from outcomes and from ends of every scale."""

    def __init__(self, books: Books, scores: Scores, measure: Measure | None) -> None:
        self.before = scores.per_image(measure.before if measure else None)
        self.after = scores.per_image(measure.after if measure else None)
        self.identity, self.seconds = scores.identity(), scores.seconds
        sign = 1.0 if measure is None or measure.higher_is_better else -1.0
        self.gain, self._worth = sign * (self.after - self.before), sign * self.after
        self._outcomes = np.array(books.outcome, dtype=object)
        everything = np.arange(len(books.outcome))
        self.extremes = {
            "slowest": _order(everything, -self.seconds)[:RANKED],
            "lost_most": _order(everything[self.gain < 0], self.gain)[:RANKED],
            "least_alike": _order(everything, self.identity)[:RANKED],
        }
        self.gallery = self._gallery()
        self.must_list = {i for order in self.extremes.values() for i in order}

    def _gallery(self) -> dict[int, str]:
        queues = [
            [(image, why) for image in order[:GALLERY]]
            for outcome in ("restored", "fallback", "rejected_identity", "left_alone")
            for why, order in self._orders(np.flatnonzero(self._outcomes == outcome))
        ]
        chosen: dict[int, str] = {}
        for image, why in (pick for picks in zip_longest(*queues) for pick in picks if pick):
            if len(chosen) == GALLERY:
                return chosen
            chosen.setdefault(image, why)
        return dict.fromkeys(chosen, EVERYTHING)

    def _orders(self, images: np.ndarray[Any, np.dtype[np.intp]]) -> Iterator[tuple[str, list[int]]]:
        yield "drawn by chance", np.random.default_rng(0).permutation(images).tolist()
        yield "a large gain", _order(images, -self.gain)
        yield "a large loss", _order(images[self.gain[images] < 0], self.gain)
        yield "a low similarity", _order(images, self.identity)
        yield "a low score", _order(images, self._worth)
        yield "a high score", _order(images, -self._worth)


def _order(images: np.ndarray[Any, np.dtype[np.intp]], key: Floats) -> list[int]:
    """The images by rising key, without those whose key is nan."""
    measured = images[~np.isnan(key[images])]
    ordered: list[int] = measured[np.argsort(key[measured], kind="stable")].tolist()
    return ordered


def _files(inventory: Any, books: Books, choice: _Choice) -> list[FileRecord]:
    troubles: list[FileRecord] = []
    shown: dict[int, FileRecord] = {}
    others: list[FileRecord] = []
    for row in rows_of(inventory):
        if not row.get("present", True):
            continue
        outcome, ordinal = books.verdict(row)[0], books.ordinals.get(row["image_id"])
        in_gallery = ordinal in choice.gallery and ordinal not in shown and not row.get("problem")
        if outcome in TROUBLES and len(troubles) < TROUBLES_LISTED:
            record = _record(row, books, choice, in_gallery)
            troubles.append(record)
            if in_gallery and ordinal is not None:
                shown[ordinal] = record
        elif in_gallery and ordinal is not None:
            shown[ordinal] = _record(row, books, choice, True)
        elif len(others) < LISTED or ordinal in choice.must_list:
            others.append(_record(row, books, choice, False))
    return [*troubles, *(r for r in shown.values() if r.outcome not in TROUBLES), *others]


def _record(row: Row, books: Books, choice: _Choice, in_gallery: bool) -> FileRecord:
    outcome, code, reason = books.verdict(row)
    ordinal = None if row.get("problem") else books.ordinals.get(row["image_id"])
    record = FileRecord(
        path=row["path"],
        image_id=row["image_id"],
        outcome=outcome,
        reason_code=code,
        reason=reason,
        bytes=row.get("bytes"),
        format=row.get("format"),
        width=row.get("width"),
        height=row.get("height"),
    )
    if ordinal is None:
        return record
    return replace(
        record,
        faces=books.face_count[ordinal],
        before=_number(choice.before[ordinal]),
        after=_number(choice.after[ordinal]),
        identity=_number(choice.identity[ordinal]),
        seconds=_number(choice.seconds[ordinal]),
        chosen=choice.gallery[ordinal] if in_gallery else "",
    )


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _positions(files: Sequence[FileRecord], books: Books, images: Sequence[int]) -> tuple[int, ...]:
    """Where the images stand in `files`; a duplicate stands for its first path."""
    wanted = set(images)
    at: dict[int, int] = {}
    for position, record in enumerate(files):
        ordinal = books.ordinals.get(record.image_id)
        if ordinal in wanted and ordinal is not None:
            at.setdefault(ordinal, position)
    return tuple(at[image] for image in images if image in at)


def _with_details(
    files: Sequence[FileRecord], events: Any, stages: Sequence[str], ranked: Collection[int]
) -> tuple[FileRecord, ...]:
    first = sorted(range(len(files)), key=lambda i: (not files[i].chosen, i not in ranked, i))
    wanted = {files[i].image_id for i in first[:DETAILED]}
    rows: dict[str, list[Row]] = defaultdict(list)
    for row in rows_of(events):
        if row["image_id"] in wanted and (not stages or row["stage"] in stages):
            rows[row["image_id"]].append(row)
    details = {image_id: face_records(found, stages) for image_id, found in rows.items()}
    return tuple(replace(f, details=details.get(f.image_id)) for f in files)


def face_records(rows: Sequence[Row], stages: Sequence[str]) -> tuple[FaceRecord, ...]:
    """The faces of one image from its stage rows, each with its steps in the order of `stages`."""
    place = {stage: n for n, stage in enumerate(stages)}
    by_face: dict[int, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda r: (r["face"], place.get(r["stage"], len(place)))):
        by_face[row["face"]].append(row)
    return tuple(_face(number, steps) for number, steps in by_face.items())


def _face(number: int, rows: Sequence[Row]) -> FaceRecord:
    metrics: dict[str, float] = {}
    for row in rows:
        metrics |= metrics_of(row)
    points = next((p for row in rows if (p := detail_of(row).get("points"))), ())
    return FaceRecord(
        face=number,
        outcome=_face_outcome(rows),
        metrics=metrics,
        steps=tuple(_step(row) for row in rows),
        landmarks=tuple((float(x), float(y)) for x, y in points) if number != WHOLE_IMAGE else (),
    )


def _face_outcome(rows: Sequence[Row]) -> FileOutcome:
    """A failure decides, then the identity gate; what a condition spared a face decides nothing."""
    for states in (("quarantined", "failed_retryable"), ("rejected_identity", "done_fallback")):
        if decisive := next((row for row in rows if row["state"] in states), None):
            return outcome_of(decisive["state"], decisive["reason_code"])
    verdicts = [outcome_of(row["state"], row["reason_code"]) for row in rows if row["reason_code"] != "gate_not_met"]
    return "left_alone" if "left_alone" in verdicts else "restored"


def _step(row: Row) -> Step:
    return Step(
        stage=row["stage"],
        state=row["state"],
        reason_code=row["reason_code"],
        reason=row.get("reason") or "",
        milliseconds=row.get("device_ms"),
        attempt=row.get("attempt") or 1,
        decision={k: v for k, v in detail_of(row).items() if _is_short(v)},
    )


def _is_short(value: Any) -> bool:
    if isinstance(value, Mapping):
        return len(value) <= _SHORT and all(_is_short(v) for v in value.values())
    if isinstance(value, list):
        return len(value) <= _SHORT and not any(isinstance(v, list) for v in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return not isinstance(value, str) or len(value) <= 500
