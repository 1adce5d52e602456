"""What an evaluation's page says: columns per face, tables, distributions, and which faces are worth showing.

Pure functions over the files of an evaluation and, where there is one, over what the ledger of the restoring run adds.
It knows nothing of pictures or pages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.measuring import BEFORE, COLUMNS, Evaluation, MetricFacts, SubsetSummary, identities
from tasks.pages.evaluation.restoring import Key, Restoring, Wanted
from tasks.pages.shared.distributions import Distribution, Floats, distribution
from tasks.pages.shared.measures import Measure, title

LISTED = 50_000
"""Faces on the page, whatever the evaluation."""
DETAILED = 12_000
"""Faces whose steps in the restoring run are told."""
IDENTITY = "identity"
"""The metric that the data set's thresholds are for."""

Places = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class EvaluatedFace:
    """One row of evaluation.parquet without its metrics; see `tasks.measuring.COLUMNS`."""

    path: str
    key: str
    face: int
    subset: str
    pair_id: str
    restored_sha256: str
    input_path: str | None
    input_sha256: str | None
    truth_path: str | None
    truth_sha256: str | None
    problem: str
    problem_text: str
    points: list[float] | None
    matrix: list[float] | None


@dataclass(frozen=True, slots=True)
class Column:
    """Numbers of every face, nan where not measured. A `difference` is result minus input of the metric `of`."""

    name: str
    title: str
    better: Literal["higher", "lower", ""]
    values: Floats
    kind: Literal["metric", "difference"]
    of: str


@dataclass(frozen=True, slots=True)
class IdentityChart:
    """Similarity to the input in one subset; `mark` is the threshold's place between 0 and 1, if there is one."""

    subset: str
    distribution: Distribution
    threshold: float | None
    mark: float | None
    failed: int | None
    least: float
    median: float


@dataclass(frozen=True, slots=True)
class Sheet:
    """An evaluation as the page shows it. Arrays have one entry per face (N), in the order of its file.

    `failed`: 1 below its subset's identity threshold, 0 not, -1 not known. `keys` leads to the restoring run's face.
    `need` holds all faces, those most worth showing first.
    """

    evaluation: Evaluation
    restoring: Restoring | None
    columns: tuple[Column, ...]
    failed: NDArray[np.int8]
    keys: Sequence[Key | None]
    distributions: tuple[Distribution, ...]
    identities: tuple[IdentityChart, ...]
    need: Places

    def faces(self, places: Places | None = None) -> Iterator[EvaluatedFace]:
        """The faces at those places of the file, or all, in order."""
        return faces_of(self.evaluation.faces if places is None else self.evaluation.faces.take(places))

    @property
    def listed(self) -> Places:
        """The faces that the page lists, in the order of the file."""
        return np.sort(self.need[:LISTED])


def faces_of(table: pa.Table) -> Iterator[EvaluatedFace]:
    """The rows of evaluation.parquet as records, a bounded number at a time."""
    for batch in table.select(COLUMNS.names).to_batches(max_chunksize=10_000):
        columns = (column.to_pylist() for column in batch.columns)
        yield from (EvaluatedFace(*row) for row in zip(*columns, strict=True))


def wanted_of(evaluation: Evaluation) -> Wanted:
    """What the page asks the ledger of the restoring run for; of the faces that need it most also the steps."""
    inputs = evaluation.faces.column("input_sha256")
    most = _by_need(_metric_columns(evaluation), failures(evaluation))[:DETAILED]
    return Wanted(evaluation.metrics, set(inputs.to_pylist()) - {None}, set(inputs.take(most).to_pylist()) - {None})


def sheet_of(evaluation: Evaluation, restoring: Restoring | None) -> Sheet:
    """All that the page shows of an evaluation."""
    keys = _keys(evaluation, restoring)
    metrics = _metric_columns(evaluation)
    before = {c.name: _before(c.name, keys, restoring) for c in metrics}
    columns = (*metrics, *_differences(metrics, before))
    failed = failures(evaluation)
    return Sheet(
        evaluation,
        restoring,
        columns,
        failed,
        keys,
        tuple(_distributions(metrics, before)),
        tuple(_identities(evaluation, metrics, failed)),
        _by_need(columns, failed),
    )


def failures(evaluation: Evaluation) -> NDArray[np.int8]:
    """Per face: 1 where the similarity is below its subset's threshold, 0 where not, -1 where nobody can say."""
    thresholds = {name: subset.threshold for name, subset in evaluation.facts.subsets.items()}
    if IDENTITY not in evaluation.metrics:
        return np.full(evaluation.faces.num_rows, -1, np.int8)
    limits = [thresholds.get(subset) for subset in evaluation.faces.column("subset").to_pylist()]
    limit, values = np.array(limits, np.float64), _numbers(evaluation, IDENTITY)
    return np.where(np.isnan(limit) | np.isnan(values), -1, values < limit).astype(np.int8)


def _numbers(evaluation: Evaluation, name: str) -> Floats:
    return np.array(evaluation.faces.column(name).to_pylist(), np.float64)


def _metric_columns(evaluation: Evaluation) -> tuple[Column, ...]:
    said = evaluation.facts.metrics
    return tuple(
        Column(
            name,
            said.get(name, MetricFacts()).title or title(name),
            said.get(name, MetricFacts()).better,
            _numbers(evaluation, name),
            "metric",
            name,
        )
        for name in evaluation.metrics
    )


def _keys(evaluation: Evaluation, restoring: Restoring | None) -> Sequence[Key | None]:
    if restoring is None:
        return [None] * evaluation.faces.num_rows
    return [_key(restoring, face) for face in faces_of(evaluation.faces)]


def _key(restoring: Restoring, face: EvaluatedFace) -> Key | None:
    if face.input_sha256 is None or face.face < 0 or face.points is None:
        return None
    warp = None if face.matrix is None else np.array(face.matrix, np.float64).reshape(2, 3)
    return restoring.face_of(face.input_sha256, face.face, warp, np.array(face.points, np.float64).reshape(5, 2))


def _before(name: str, keys: Sequence[Key | None], restoring: Restoring | None) -> Floats:
    if restoring is None:
        return np.full(len(keys), np.nan)
    return np.array([restoring.before.get(key, {}).get(name, np.nan) if key else np.nan for key in keys])


def _differences(metrics: Sequence[Column], before: dict[str, Floats]) -> Iterator[Column]:
    for column in metrics:
        values = column.values - before[column.name]
        if not np.isnan(values).all():
            yield Column(
                f"{column.name}.gain", f"{column.title}, gain", column.better, values, "difference", column.name
            )


def _distributions(metrics: Sequence[Column], before: dict[str, Floats]) -> Iterator[Distribution]:
    for column in metrics:
        after, was = (values[~np.isnan(values)] for values in (column.values, before[column.name]))
        if after.size:
            paired = f"{column.name}.{BEFORE}" if was.size else None
            yield distribution(Measure(column.name, paired, column.name, column.better == "higher"), was, after)


def _identities(evaluation: Evaluation, metrics: Sequence[Column], failed: NDArray[np.int8]) -> Iterator[IdentityChart]:
    """One chart per subset, all on one scale; AdaFace's where it is there, else the network's that was added."""
    column = next((c for c in metrics if c.name in identities()), None)
    known = column.values[~np.isnan(column.values)] if column else np.zeros(0)
    if column is None or not known.size:
        return
    low, high = min(0.0, float(known.min())), 1.0
    subsets = np.array(evaluation.faces.column("subset").to_pylist(), dtype=object)
    for name, subset in (evaluation.facts.subsets or {"": SubsetSummary()}).items():
        here = (subsets == name) & ~np.isnan(column.values)
        if not here.any():
            continue
        threshold = subset.threshold if column.name == IDENTITY else None
        values = column.values[here]
        yield IdentityChart(
            name,
            distribution(Measure(column.name, None, column.name), np.zeros(0), values, (low, high)),
            threshold,
            None if threshold is None else (threshold - low) / (high - low),
            None if threshold is None else int((failed[here] == 1).sum()),
            float(values.min()),
            float(np.median(values)),
        )


def _by_need(columns: Sequence[Column], failed: NDArray[np.int8]) -> Places:
    """All faces: identity failures, both ends of every column and faces by chance, taken in turns."""
    everything = np.arange(len(failed))
    queues = [np.flatnonzero(failed == 1), np.random.default_rng(0).permutation(everything)]
    for column in columns:
        measured = everything[~np.isnan(column.values)]
        order = measured[np.argsort(column.values[measured], kind="stable")]
        queues += [order, order[::-1]]
    turns: Callable[..., Iterator[tuple[int | None, ...]]] = zip_longest
    chosen = dict.fromkeys(
        place for turn in turns(*(queue[:LISTED].tolist() for queue in queues)) for place in turn if place is not None
    )
    return np.array(list(chosen), np.intp)
