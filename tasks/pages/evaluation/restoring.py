"""What the ledger of the restoring run adds to an evaluation's page: gates, times, reasons, scores of the inputs.

Pure functions over ledger rows; it knows nothing of files, pictures or pages. An evaluated face finds its row by the
sha256 of its input and, where faces were looked for, by where its landmarks lie.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.pages.run.collect import face_records
from tasks.pages.run.records import FaceRecord, RunFacts, StageTotal
from tasks.pages.run.totals import BEFORE, Books, Floats, Row, Scores, detail_of, metrics_of, rows_of
from tasks.recipes import Condition
from tasks.stage import WHOLE_IMAGE

Key = tuple[str, int]
"""(sha256 of the input, number of the face in the ledger)."""

SIDE = 512
SAME_FACE = 0.06
"""Landmarks that lie so close to each other, in sides of the crop, are of one face."""


@dataclass(frozen=True)
class Gate:
    """A stage's condition and what it decided: `values` (N, comparisons), nan where not measured; `ran` (N,)."""

    stage: str
    text: str
    comparisons: tuple[tuple[str, str, float], ...]
    values: Floats
    ran: NDArray[np.bool_]


@dataclass(frozen=True)
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
    inventory: Any,
    commits: Any,
    events: Any,
    *,
    metrics: Collection[str],
    detailed: Collection[str],
) -> Restoring:
    """Goes through a workspace's rows (as `tasks.report_collect.collect` takes them).

    `conditions` maps a stage to what must hold before it runs; `metrics` are the evaluation's, by bare name; `detailed`
    are the images whose steps and intermediates are wanted.
    """
    books = Books(inventory, commits)
    before: dict[Key, dict[str, float]] = {}
    points: dict[str, dict[int, Floats]] = defaultdict(dict)
    scores: dict[Key, dict[str, float]] = defaultdict(dict)
    rows: dict[str, list[Row]] = defaultdict(list)
    decided: dict[str, dict[Key, bool]] = {stage: {} for stage in conditions}
    compared = {name for condition in conditions.values() for name in condition.metrics}
    for row in rows_of(events):
        key = (row["image_id"], row["face"])
        if row["image_id"] in detailed:
            rows[row["image_id"]].append(row)
        if row["face"] == WHOLE_IMAGE:
            continue
        found = metrics_of(row)
        scores[key].update({name: value for name, value in found.items() if name in compared})
        if inputs := _of_input(found, metrics):
            before[key] = before.get(key, {}) | inputs
        if (marks := detail_of(row).get("points")) and row["stage"] == facts.stages[0]:
            points[row["image_id"]][row["face"]] = np.array(marks, np.float64)
        if row["stage"] in decided:
            decided[row["stage"]][key] = row["reason_code"] != "gate_not_met"
    return Restoring(
        facts=facts,
        reasons=dict(books.reasons.most_common()),
        stages=Scores(books.ordinals, events, facts).stage_totals(facts),
        gates=tuple(_gate(stage, conditions[stage], faces, scores) for stage, faces in decided.items()),
        before=before,
        points=points,
        records={image_id: face_records(found, facts.stages) for image_id, found in rows.items()},
        written=_written(rows, facts.stages),
    )


def _of_input(found: Mapping[str, float], metrics: Collection[str]) -> dict[str, float]:
    """Scores of the input by bare name; what the last stage measured on it goes before what the gates looked at."""
    inputs = {}
    for image in reversed(BEFORE):
        for name, value in found.items():
            base, _, of = name.rpartition(".")
            if of == image and base in metrics:
                inputs[base] = value
    return inputs


def _gate(
    stage: str, condition: Condition, faces: Mapping[Key, bool], scores: Mapping[Key, Mapping[str, float]]
) -> Gate:
    values = [[scores[key].get(name, np.nan) for name in condition.metrics] for key in faces]
    return Gate(
        stage,
        condition.text,
        condition.comparisons,
        np.array(values, np.float64).reshape(-1, len(condition.comparisons)),
        np.array(list(faces.values()), bool),
    )


def _written(rows: Mapping[str, Sequence[Row]], stages: Sequence[str]) -> dict[Key, tuple[tuple[str, str], ...]]:
    place = {stage: n for n, stage in enumerate(stages)}
    found: dict[Key, list[tuple[str, str]]] = defaultdict(list)
    for image_id, image_rows in rows.items():
        for row in sorted(image_rows, key=lambda row: place.get(row["stage"], len(place))):
            uri = row.get("output_uri") or ""
            if row["face"] != WHOLE_IMAGE and row["stage"] in place and uri.startswith("intermediates/"):
                found[(image_id, row["face"])].append((row["stage"], uri))
    return {key: tuple(made) for key, made in found.items()}
