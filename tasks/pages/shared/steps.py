"""What stages did, from the ledger's events: totals per stage, and every face step by step."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import attrgetter

from pydantic import JsonValue, TypeAdapter

from infra.ledger import COMMIT, Event
from tasks.archive import OUTCOMES, FileOutcome, outcome_of
from tasks.pages.shared.measures import numbers_of
from tasks.pages.shared.records import FaceRecord, RunFacts, StageTotal
from tasks.stage import WHOLE_IMAGE

_SHORT = 12
"""Longer or nested lists in a stage's detail (landmarks, matrices) are no decisions."""
_POINTS = TypeAdapter(tuple[tuple[float, float], ...])


def of_recipe(events: Iterable[Event], stages: Collection[str]) -> Iterator[Event]:
    """The events of the recipe's stages; where its stages are not known, all but the verdict."""
    return (event for event in events if (event.stage in stages if stages else event.stage != COMMIT))


class StageTallies:
    """Counts what every stage did in one run."""

    def __init__(self, facts: RunFacts) -> None:
        self._facts = facts
        self._tallies: dict[str, Counter[str]] = defaultdict(Counter)

    def add(self, events: Iterable[Event]) -> None:
        """Counts the events that are of the run."""
        for event in events:
            if event.run_id == self._facts.run_id:
                self._count(self._tallies[event.stage], event)

    def _count(self, tally: Counter[str], event: Event) -> None:
        scope = "image" if event.face == WHOLE_IMAGE else "face"
        tally[f"{scope} {'skipped' if event.state == 'skipped' else 'worked'}"] += 1
        tally["retried"] += event.attempt > 1
        if event.device_ms is not None:
            tally["microseconds"] += round(event.device_ms * 1000)

    def totals(self) -> tuple[StageTotal, ...]:
        """In recipe order."""
        return tuple(self._total(stage) for stage in self._facts.stages or sorted(self._tallies))

    def _total(self, stage: str) -> StageTotal:
        tally, seconds = self._tallies[stage], self._facts.stage_seconds.get(stage)
        scope = "face" if tally["face worked"] + tally["face skipped"] else "image"
        device = tally["microseconds"] / 1e6 if "microseconds" in tally else None
        worked, skipped = tally[f"{scope} worked"], tally[f"{scope} skipped"]
        rate = worked / seconds if worked and seconds else None
        return StageTotal(stage, worked, skipped, tally["retried"], device, seconds, rate)


def face_records(events: Iterable[Event], stages: Sequence[str]) -> tuple[FaceRecord, ...]:
    """The faces of one image from its events, each with its steps in the order of `stages`."""
    place = {stage: n for n, stage in enumerate(stages)}
    ordered = sorted(events, key=lambda event: (event.face, place.get(event.stage, len(place))))
    return tuple(_face(face, tuple(steps)) for face, steps in groupby(ordered, attrgetter("face")))


def _face(face: int, steps: tuple[Event, ...]) -> FaceRecord:
    metrics: dict[str, float] = {}
    for step in steps:
        metrics |= numbers_of(step.metrics)
    points = next((p for step in steps if (p := step.detail.get("points"))), ())
    return FaceRecord(face, _outcome(steps), metrics, steps, _POINTS.validate_python(points))


def _outcome(steps: Sequence[Event]) -> FileOutcome:
    """A failure decides, then the identity gate; what a condition spared a face decides nothing."""
    for states in (("quarantined", "failed_retryable"), ("rejected_identity", "done_fallback")):
        if decisive := next((step for step in steps if step.state in states), None):
            return outcome_of(decisive.state, decisive.reason_code or "")
    verdicts = [outcome_of(step.state, step.reason_code or "") for step in steps if step.reason_code != "gate_not_met"]
    return "left_alone" if "left_alone" in verdicts else "restored"


def step_lines(face: FaceRecord) -> list[object]:
    """A face's number, outcome and steps in a page's data; the script reads them by position."""
    return [face.face, OUTCOMES.index(face.outcome), [_step_line(step) for step in face.steps]]


def _step_line(step: Event) -> list[object]:
    reason = step.reason or (step.reason_code or "").replace("_", " ")
    return [step.stage, step.state, reason, short(step.device_ms), step.attempt, decision_of(step)]


def decision_of(step: Event) -> dict[str, JsonValue]:
    """What is short enough in a step's detail to be read."""
    return {name: value for name, value in step.detail.items() if _is_short(value)}


def _is_short(value: JsonValue) -> bool:
    if isinstance(value, Mapping):
        return len(value) <= _SHORT and all(_is_short(each) for each in value.values())
    if isinstance(value, list):
        return len(value) <= _SHORT and not any(isinstance(each, list) for each in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return not isinstance(value, str) or len(value) <= 500


def short(value: float | None) -> float | None:
    """Four digits that matter, so that pages stay small; None also for what is no number."""
    return None if value is None or math.isnan(value) else float(f"{value:.4g}")
