"""What can be measured here, and the meter that measures it.

Metrics whose weights or package are absent are named with what they need; none ever stands in for another. The
meter takes one face at a time, in float32, so that no number depends on a face's neighbours. The module knows
nothing of files, pairs or data sets, and imports torch only to measure.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from infra.extras import EXTRAS, how_to_get, is_here
from infra.weights import WeightsError
from tasks.measuring.instruments import Answer, FacePair, Look, Networks
from tasks.measuring.metrics import Metric, UnknownMetric, default_metrics, metric_of, weights_of


class Unmeasurable(ValueError):
    """One metric cannot be taken of one face; the message says which and why."""


@dataclass(frozen=True)
class Resolved:
    """What can be measured here (metric → digest), and what cannot (metric → sentence with what it needs).

    `weights` are the sha256 of the files behind every metric that can: metric → weights' name → sha256.
    """

    present: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    weights: dict[str, dict[str, str]] = field(default_factory=dict)


class Store(Protocol):
    """What is asked of infra.weights.WeightsStore."""

    def sha256(self, name: str) -> str: ...

    def path(self, name: str) -> Path: ...


def resolve(names: Sequence[str], store: Store, truth: bool) -> Resolved:
    """Which of `names` (none: `default_metrics`) can be measured with the files of `store`.

    Where AdaFace is absent and `face_embedding_onnx` is there, `identity` is missing and `identity_onnx` present.
    Raises UnknownMetric.
    """
    result = Resolved()
    for metric in map(metric_of, names or default_metrics(truth)):
        _resolve_into(result, metric, store, truth)
        if metric.name in result.missing and metric.substitute:
            _add_substitute(result, metric_of(metric.substitute), store, truth)
    return result


class Meter:
    """Takes metrics of faces; built once per worker. Networks are loaded when first asked for, or by `load`."""

    def __init__(self, names: Sequence[str], weights: Mapping[str, Path], device: str = "cpu") -> None:
        """`names` are those of METRICS (present ones of a Resolved); `weights` maps `weights_of(names)` to files."""
        self._instruments = {name: how for name in names if (how := metric_of(name).instrument)}
        lacking = [weight for weight in weights_of(names) if weight not in weights]
        if lacking:
            raise ValueError(f"expected files for {', '.join(weights_of(names))}; got none for {', '.join(lacking)}")
        self._networks = Networks(weights, device)

    def load(self) -> None:
        """Loads every network at once. Raises WeightsError where a file does not hold it."""
        for name in self._instruments:
            self._look(name)

    def measure(self, face: FacePair, names: Sequence[str] | None = None) -> dict[str, float]:
        """Metric → value of one face, for the meter's metrics but those of sets, or for `names`, a part of them.

        Raises Unmeasurable.
        """
        chosen = self._instruments if names is None else names
        return {name: self._number(name, face) for name in chosen if metric_of(name).kind != "set"}

    def features(self, face: FacePair) -> NDArray[np.float32] | None:
        """The restored face's 2048 Inception features, for FID; None where the meter has no `fid`."""
        return np.asarray(self._take("fid", face)) if "fid" in self._instruments else None

    def _number(self, name: str, face: FacePair) -> float:
        value = float(self._take(name, face))
        if not math.isfinite(value):
            raise Unmeasurable(f"{name}: expected a number, got {value}")
        return value

    def _take(self, name: str, face: FacePair) -> float | Answer:
        if name not in self._instruments:
            raise UnknownMetric(f"this meter takes {', '.join(self._instruments)}; it was asked for {name}")
        try:
            return self._instruments[name].take(face, self._look(name))
        except (ValueError, WeightsError) as error:
            raise Unmeasurable(f"{name}: {error}") from error

    def _look(self, name: str) -> Look:
        return self._networks.look(self._instruments[name].load, metric_of(name).weights)


def _resolve_into(result: Resolved, metric: Metric, store: Store, truth: bool) -> None:
    hashes, problems = {}, []
    if metric.needs_truth and not truth:
        problems.append("it compares with the truth: give the folder of originals with --truth DIR")
    if metric.extra and not is_here(metric.extra):
        problems.append(how_to_get(metric.extra))
    for weight in (*metric.weights, *metric.set_weights):
        try:
            hashes[weight] = store.sha256(weight)
        except WeightsError as error:
            problems.append(str(error))
    if problems:
        result.missing[metric.name] = f"{metric.title} needs more than is here: {'; '.join(problems)}"
    else:
        result.present[metric.name] = _digest(metric, hashes)
        result.weights[metric.name] = hashes


def _add_substitute(result: Resolved, other: Metric, store: Store, truth: bool) -> None:
    """A network of the user's own, measured under its own name; said only where it is there."""
    attempt = Resolved()
    _resolve_into(attempt, other, store, truth)
    result.present.update(attempt.present)
    result.weights.update(attempt.weights)


def _digest(metric: Metric, hashes: Mapping[str, str]) -> str:
    """Changes with whatever changes the metric of one face. Statistics of a set do not, and features keep."""
    package = f"{metric.extra} {importlib.metadata.version(EXTRAS[metric.extra])}" if metric.extra else ""
    facts = [metric.name, metric.version, package, {name: hashes[name] for name in metric.weights}]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
