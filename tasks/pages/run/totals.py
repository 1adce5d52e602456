"""Counts and sums over ledger rows: verdicts by image, totals in files, scores, time per stage.

It goes through the rows once and keeps about 500 bytes per image; it knows nothing of what a report shows.
"""

from __future__ import annotations

import json
import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.archive import REASONS, FileOutcome, outcome_of
from tasks.pages.run.records import Distribution, Measure, RunFacts, StageTotal
from tasks.stage import WHOLE_IMAGE

Row = Mapping[str, Any]
Floats = NDArray[np.float64]

BINS = 28
BEFORE, AFTER = ("input", "aligned"), ("final", "restored")
"""Images that metrics are taken on: of a face as it was, and of its result."""
IDENTITIES = ("identity.restored", "identity_compact.restored")
"""The first of these that was measured ranks files by likeness; the small judge's numbers never mix with another's."""
LOWER_IS_BETTER = frozenset({"niqe", "brisque", "lpips", "dists", "change"})
_LEADING = ("quality", "clipiqa", "musiq", "maniqa", "niqe")


def iter_once(rows: Any) -> bool:
    """Whether `rows` is an iterator, which is empty when it is gone through again."""
    return not hasattr(rows, "to_batches") and iter(rows) is rows


def rows_of(rows: Any) -> Iterator[Row]:
    """The rows of an Arrow table or of an iterable of dicts, one by one."""
    if not hasattr(rows, "to_batches"):
        yield from rows
        return
    for batch in rows.to_batches(max_chunksize=10_000):
        yield from batch.to_pylist()


def detail_of(row: Row) -> dict[str, Any]:
    """The row's detail, which the ledger holds as JSON."""
    detail = row.get("detail")
    return json.loads(detail) if isinstance(detail, str) else dict(detail or {})


def metrics_of(row: Row) -> dict[str, float]:
    """The row's metrics that are numbers; Arrow gives maps as lists of pairs."""
    pairs = dict(row.get("metrics") or {})
    return {name: float(v) for name, v in pairs.items() if v is not None and math.isfinite(v)}


class Books:
    """Verdicts by image, and the totals in files."""

    def __init__(self, inventory: Any, commits: Any) -> None:
        self.ordinals: dict[str, int] = {}
        present = {row["image_id"] for row in rows_of(inventory) if row.get("present", True)}
        self.outcome: list[FileOutcome] = []
        self.code: list[str] = []
        self.reason: list[str] = []
        self.face_count = array("i")
        self.faces: Counter[str] = Counter()
        for row in rows_of(commits):
            if row["image_id"] in present:
                self._commit(row)
        self.found, self.gone = 0, 0
        self.outcomes: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        for row in rows_of(inventory):
            self._count(row)

    def _commit(self, row: Row) -> None:
        detail = detail_of(row)
        faces = detail.get("faces") or {}
        self.ordinals[row["image_id"]] = len(self.outcome)
        self.outcome.append(detail.get("outcome") or outcome_of(row["state"], row["reason_code"]))
        self.code.append(row["reason_code"])
        self.reason.append(row.get("reason") or "")
        self.face_count.append(sum(faces.values()) if isinstance(faces, Mapping) else int(faces))
        if isinstance(faces, Mapping):
            self.faces.update(faces)

    def _count(self, row: Row) -> None:
        if not row.get("present", True):
            self.gone += 1
            return
        outcome, code, _ = self.verdict(row)
        self.found += 1
        self.outcomes[outcome] += 1
        self.reasons[code] += 1

    def verdict(self, row: Row) -> tuple[FileOutcome, str, str]:
        """Outcome, reason code and sentence of an inventory row: its own problem, else its image's verdict."""
        if problem := row.get("problem"):
            outcome = REASONS[problem][0] if problem in REASONS else "failed"
            return outcome, problem, row.get("problem_text") or ""
        ordinal = self.ordinals.get(row["image_id"])
        if ordinal is None:
            return "pending", "pending", ""
        return self.outcome[ordinal], self.code[ordinal], self.reason[ordinal]


class _Column:
    """All values of one metric, and their sum, count and least value per image."""

    def __init__(self, images: int) -> None:
        self.values = array("d")
        self.sum = array("d", [0.0]) * images
        self.count = array("i", [0]) * images
        self.least = array("d", [math.nan]) * images

    def add(self, ordinal: int, value: float) -> None:
        self.values.append(value)
        self.sum[ordinal] += value
        self.count[ordinal] += 1
        if not self.least[ordinal] <= value:  # nan is never less
            self.least[ordinal] = value

    @property
    def mean(self) -> Floats:
        """Per image; nan where nothing was measured."""
        with np.errstate(invalid="ignore"):
            means: Floats = np.array(self.sum) / np.array(self.count)  # 0 / 0 is nan
        return means


class Scores:
    """One pass over the stage rows: metrics, time per image, totals per stage."""

    def __init__(self, ordinals: Mapping[str, int], events: Any, facts: RunFacts) -> None:
        self._images = len(ordinals)
        self.columns: dict[str, _Column] = {}
        seconds = array("d", [math.nan]) * self._images
        self._stages: dict[str, Counter[str]] = defaultdict(Counter)
        wanted = set(facts.stages)
        for row in rows_of(events):
            ordinal = ordinals.get(row["image_id"])
            if ordinal is not None and (not wanted or row["stage"] in wanted):
                self._add(row, ordinal, facts.run_id, seconds)
        self.seconds: Floats = np.array(seconds)

    def _add(self, row: Row, ordinal: int, run_id: str, seconds: array[float]) -> None:
        milliseconds = row.get("device_ms")
        if milliseconds is not None:
            known = seconds[ordinal]
            seconds[ordinal] = milliseconds / 1000 + (0.0 if math.isnan(known) else known)
        if row["face"] != WHOLE_IMAGE:
            for name, value in metrics_of(row).items():
                if name not in self.columns:
                    self.columns[name] = _Column(self._images)
                self.columns[name].add(ordinal, value)
        if row.get("run_id", run_id) == run_id:
            self._tally(row, milliseconds)

    def _tally(self, row: Row, milliseconds: float | None) -> None:
        tally = self._stages[row["stage"]]
        scope = "image" if row["face"] == WHOLE_IMAGE else "face"
        tally[f"{scope} {'skipped' if row['state'] == 'skipped' else 'worked'}"] += 1
        tally["retried"] += (row.get("attempt") or 1) > 1
        if milliseconds is not None:
            tally["microseconds"] += round(milliseconds * 1000)

    def measures(self) -> list[Measure]:
        """Every metric that was taken on the result: pairs of before and after, and identity on its own."""
        bases = sorted({name.rpartition(".")[0] for name in self.columns}, key=_leading_first)
        found = [self._measure(base) for base in bases]
        return [m for m in found if m.after is not None]

    def _measure(self, base: str) -> Measure:
        after = next((f"{base}.{image}" for image in AFTER if f"{base}.{image}" in self.columns), None)
        before = next((f"{base}.{image}" for image in BEFORE if f"{base}.{image}" in self.columns), None)
        return Measure(base, before, after, base not in LOWER_IS_BETTER)

    def leading(self) -> Measure | None:
        """The measure that files are compared by: the first that was taken before and after."""
        return next((m for m in self.measures() if m.before), None)

    def per_image(self, name: str | None) -> Floats:
        """Mean over each image's faces; nan where nothing was measured."""
        return self.columns[name].mean if name in self.columns else np.full(self._images, np.nan)

    def identity(self) -> Floats:
        """The least similarity among each image's faces, by one judge; nan where it measured nothing."""
        column = next((self.columns[name] for name in IDENTITIES if name in self.columns), None)
        return np.array(column.least) if column else np.full(self._images, np.nan)

    def distributions(self) -> Iterator[Distribution]:
        """One histogram per measure."""
        for measure in self.measures():
            before, after = self._values(measure.before), self._values(measure.after)
            yield distribution(measure, before, after)

    def _values(self, name: str | None) -> Floats:
        return np.frombuffer(self.columns[name].values) if name in self.columns else np.zeros(0)

    def stage_totals(self, facts: RunFacts) -> tuple[StageTotal, ...]:
        """In recipe order."""
        order = facts.stages or sorted(self._stages)
        return tuple(self._stage_total(stage, facts.stage_seconds.get(stage)) for stage in order)

    def _stage_total(self, stage: str, seconds: float | None) -> StageTotal:
        tally = self._stages[stage]
        scope = "face" if tally["face worked"] + tally["face skipped"] else "image"
        device = tally["microseconds"] / 1e6 if "microseconds" in tally else None
        worked, skipped = tally[f"{scope} worked"], tally[f"{scope} skipped"]
        return StageTotal(stage, worked, skipped, tally["retried"], device, seconds)


def _leading_first(base: str) -> tuple[int, str]:
    return (_LEADING.index(base) if base in _LEADING else len(_LEADING), base)


def distribution(
    measure: Measure, before: Floats, after: Floats, limits: tuple[float, float] | None = None
) -> Distribution:
    """Histogram of one measure; what lies beyond `limits` (default: the data's own) counts in the outermost bins."""
    low, high = limits or _limits(np.concatenate([before, after]))
    edges = np.linspace(low, high, BINS + 1)
    counts = [np.histogram(values.clip(low, high), edges)[0] for values in (before, after)]
    means = [float(values.mean()) if values.size else None for values in (before, after)]
    return Distribution(
        measure,
        tuple(edges.tolist()),
        tuple(counts[0].tolist()),
        tuple(counts[1].tolist()),
        before.size,
        after.size,
        means[0],
        means[1],
    )


def _limits(values: Floats) -> tuple[float, float]:
    low, high = np.percentile(values, [0.2, 99.8]) if values.size > 500 else (values.min(), values.max())
    return (low - 0.5, high + 0.5) if high - low < 1e-9 else (low, high)
