"""What the ledger of the restoring run adds to an evaluation's page: gates, times, reasons, scores of the inputs.

Pure functions over the ledger's histories; it knows nothing of files, pictures or pages. An evaluated face finds its
history by the sha256 of its input and, where faces were looked for, by where its landmarks lie.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.ledger import History
from tasks.measuring import BEFORE
from tasks.pages.shared.distributions import Floats
from tasks.pages.shared.measures import current_name, numbers_of
from tasks.pages.shared.records import FaceRecord, RunFacts, StageTotal
from tasks.pages.shared.steps import StageTallies, face_records, of_recipe
from tasks.recipes import Condition
from tasks.stage import WHOLE_IMAGE

Key = tuple[str, int]
"""(sha256 of the input, number of the face in the ledger)."""

SIDE = 512
SAME_FACE = 0.06
"""Landmarks that lie so close to each other, in sides of the crop, are of one face."""


@dataclass(frozen=True, slots=True)
class Gate:
    """A stage's condition and what it decided: `values` (N, comparisons), nan where not measured; `ran` (N,)."""

    stage: str
    text: str
    comparisons: tuple[tuple[str, str, float], ...]
    values: Floats
    ran: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an evaluation asks the ledger for: its metrics by bare name, the sha256 of its inputs, and of those whose
    steps and intermediates are told."""

    metrics: Collection[str]
    inputs: Collection[str]
    detailed: Collection[str]


@dataclass(frozen=True, slots=True)
class Restoring:
    """The run that restored what is evaluated, as its workspace tells it.

    `before` maps a face to its input's scores by bare name (`musiq`). `records` has the steps of the images that were
    asked for, `written` the intermediates of every face of theirs as (stage, workspace path), in recipe order.
    """

    facts: RunFacts
    reasons: Mapping[str, int]
    stages: tuple[StageTotal, ...]
    gates: tuple[Gate, ...]
    before: Mapping[Key, Mapping[str, float]]
    points: Mapping[str, Mapping[int, Floats]]
    records: Mapping[str, tuple[FaceRecord, ...]]
    written: Mapping[Key, tuple[tuple[str, str], ...]]

    def face_of(self, image_id: str, face: int, matrix: Floats | None, points: Floats) -> Key | None:
        """The ledger's face for an evaluated one: `matrix` (2, 3) leads from the picture to the crop of `points`."""
        if matrix is None:
            return (image_id, face)
        for number, known in self.points.get(image_id, {}).items():
            mapped = known @ matrix[:, :2].T + matrix[:, 2]
            if np.abs(mapped - points).mean() < SAME_FACE * SIDE:
                return (image_id, number)
        return None


def restoring_of(
    facts: RunFacts,
    conditions: Mapping[str, Condition],
    reasons: Mapping[str, int],
    histories: Iterable[History],
    wanted: Wanted,
) -> Restoring:
    """Goes through the ledger's histories once.

    `conditions` maps a stage to what must hold before it runs; `reasons` counts the archive's files.
    """
    tallies = StageTallies(facts)
    gates = [_GateRows(stage, condition) for stage, condition in conditions.items()]
    before: dict[Key, dict[str, float]] = {}
    points: dict[str, dict[int, Floats]] = defaultdict(dict)
    records: dict[str, tuple[FaceRecord, ...]] = {}
    for history in histories:
        image_id, events = history.image_id, list(of_recipe(history.events, facts.stages))
        found = face_records(events, facts.stages)
        faces = [face for face in found if face.face != WHOLE_IMAGE]
        if history.sampled and history.verdict:
            tallies.add(events)
            for gate in gates:
                gate.add(faces)
        if image_id in wanted.inputs:
            before.update({(image_id, face.face): _of_input(face, wanted.metrics) for face in faces})
            points[image_id] = {face.face: np.array(face.landmarks) for face in faces if face.landmarks}
        if image_id in wanted.detailed:
            records[image_id] = found
    return Restoring(
        facts=facts,
        reasons=dict(sorted(reasons.items(), key=lambda reason: -reason[1])),
        stages=tallies.totals(),
        gates=tuple(gate.made() for gate in gates),
        before=before,
        points=points,
        records=records,
        written={(i, face.face): made for i, found in records.items() for face in found if (made := _written(face))},
    )


def _of_input(face: FaceRecord, metrics: Collection[str]) -> dict[str, float]:
    """Scores of the input by bare name."""
    return {base: face.metrics[name] for base in metrics if (name := f"{base}.{BEFORE}") in face.metrics}


def _written(face: FaceRecord) -> tuple[tuple[str, str], ...]:
    """The intermediates of a face as (stage, workspace path)."""
    uris = ((step.stage, step.output_uri or "") for step in face.steps if face.face != WHOLE_IMAGE)
    return tuple((stage, uri) for stage, uri in uris if uri.startswith("intermediates/"))


class _GateRows:
    """Gathers a gate's decisions face by face."""

    def __init__(self, stage: str, condition: Condition) -> None:
        self._stage, self._condition = stage, condition
        self._metrics = tuple(map(current_name, condition.metrics))
        self._values: list[list[float]] = []
        self._ran: list[bool] = []

    def add(self, faces: Iterable[FaceRecord]) -> None:
        """Adds the faces that the gate decided on, with what it saw: of every metric the newest of earlier stages."""
        for face in faces:
            seen: dict[str, float] = {}
            for step in face.steps:
                if step.stage == self._stage:
                    self._values.append([seen.get(name, np.nan) for name in self._metrics])
                    self._ran.append(step.reason_code != "gate_not_met")
                    break
                seen |= numbers_of(step.metrics)

    def made(self) -> Gate:
        """The gate with all its decisions."""
        comparisons = self._condition.comparisons
        values = np.array(self._values, np.float64).reshape(-1, len(comparisons))
        return Gate(self._stage, self._condition.text, comparisons, values, np.array(self._ran, bool))
