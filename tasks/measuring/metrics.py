"""Measures of a restored face: what each is called, what it needs, which way it points, and the meter that takes them.

Metrics whose weights or package are absent are named with what they need; none ever stands in for another. The
meter takes one face at a time, in float32, so that no number depends on a face's neighbours. The module knows
nothing of files, pairs or data sets (see tasks.measure and tasks.challenge), and imports torch only to measure.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from infra.extras import EXTRAS, how_to_get, is_here
from infra.weights import WeightsError
from tasks.faces import ADAFACE, ONNX
from tasks.measuring.instruments import LPIPS, FacePair, Instruments

__all__ = [
    "AGAINST_TRUTH",
    "CHALLENGE",
    "METRICS",
    "FacePair",
    "Meter",
    "Metric",
    "Resolved",
    "UnknownMetric",
    "Unmeasurable",
    "default_metrics",
    "metric_of",
    "resolve",
    "weights_of",
]

Kind = Literal["no_reference", "identity", "full_reference", "set"]
Better = Literal["higher", "lower"]

SUBSTITUTES = {"identity": "identity_onnx", "identity_truth": "identity_truth_onnx"}
CHALLENGE = ("niqe", "clipiqa", "maniqa", "musiq", "qalign", "fid", "identity")
"""What the NTIRE 2025 challenge on real-world face restoration measures."""
AGAINST_TRUTH = ("psnr", "ssim", "lpips", "identity_truth")


class UnknownMetric(ValueError):
    """No metric has this name; the message lists those that exist."""


class Unmeasurable(ValueError):
    """One metric cannot be taken of one face; the message says which and why."""


@dataclass(frozen=True)
class Metric:
    """One measure. `version` is raised whenever the same face and weights would give another number.

    `weights` are names of infra/weights.toml. `set_weights` are needed only where faces come together into one number.
    `extra` is the pip extra that brings the package it needs, or nothing.
    """

    name: str
    title: str
    kind: Kind
    better: Better
    version: int = 1
    weights: tuple[str, ...] = ()
    set_weights: tuple[str, ...] = ()
    needs_truth: bool = False
    extra: str = ""


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("niqe", "NIQE", "no_reference", "lower", weights=("niqe_pristine",)),
        Metric("clipiqa", "CLIPIQA", "no_reference", "higher", weights=("clip_rn50",), extra="iqa"),
        Metric("maniqa", "MANIQA", "no_reference", "higher", weights=("maniqa_koniq",), extra="iqa"),
        Metric("musiq", "MUSIQ", "no_reference", "higher", weights=("musiq_koniq",), extra="iqa"),
        Metric("qalign", "Q-Align", "no_reference", "higher", weights=("one_align",), extra="iqa"),
        Metric("liqe", "LIQE", "no_reference", "higher", weights=("clip_vit_b32", "liqe_koniq"), extra="iqa"),
        Metric("niqe_basicsr", "NIQE as BasicSR takes it", "no_reference", "lower", weights=("niqe_pristine",)),
        Metric("niqe_portraits", "NIQE fitted on portraits", "no_reference", "lower", weights=("niqe_portraits",)),
        Metric("quality", "compact quality score", "no_reference", "higher", weights=("compact_quality",)),
        Metric("sharpness", "sharpness", "no_reference", "higher"),
        Metric("identity", "AdaFace similarity to the input", "identity", "higher", weights=(ADAFACE,)),
        Metric("identity_onnx", "similarity to the input (own network)", "identity", "higher", weights=(ONNX,)),
        Metric("psnr", "PSNR", "full_reference", "higher", needs_truth=True),
        Metric("ssim", "SSIM", "full_reference", "higher", needs_truth=True),
        Metric("lpips", "LPIPS (AlexNet)", "full_reference", "lower", weights=LPIPS, needs_truth=True),
        Metric(
            "identity_truth",
            "AdaFace similarity to the truth",
            "full_reference",
            "higher",
            weights=(ADAFACE,),
            needs_truth=True,
        ),
        Metric(
            "identity_truth_onnx",
            "similarity to the truth (own network)",
            "full_reference",
            "higher",
            weights=(ONNX,),
            needs_truth=True,
        ),
        Metric("fid", "FID to FFHQ", "set", "lower", weights=("fid_inception",), set_weights=("fid_ffhq512",)),
    )
}
"""name → metric, in the order of tables."""


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


def default_metrics(truth: bool) -> tuple[str, ...]:
    """What is measured unless told otherwise: what the challenge and the project measure, and against a known truth."""
    own = (*CHALLENGE, "quality", "sharpness")
    return (*own, *AGAINST_TRUTH) if truth else own


def resolve(names: Sequence[str], store: Store, truth: bool) -> Resolved:
    """Which of `names` (none: `default_metrics`) can be measured with the files of `store`.

    Where AdaFace is absent and `face_embedding_onnx` is there, `identity` is missing and `identity_onnx` present.
    Raises UnknownMetric.
    """
    result = Resolved()
    for name in names or default_metrics(truth):
        _resolve_into(result, metric_of(name), store, truth)
        if name in result.missing and name in SUBSTITUTES:
            _add_substitute(result, metric_of(SUBSTITUTES[name]), store, truth)
    return result


def metric_of(name: str) -> Metric:
    """The metric of that name. Raises UnknownMetric."""
    if name not in METRICS:
        raise UnknownMetric(f"no metric is called {name!r}; known are {', '.join(METRICS)}")
    return METRICS[name]


def weights_of(names: Sequence[str]) -> tuple[str, ...]:
    """The files that a Meter for these metrics loads, by their names in infra/weights.toml, each once."""
    return tuple(dict.fromkeys(weight for name in names for weight in metric_of(name).weights))


class Meter:
    """Takes metrics of faces; built once per worker. Networks are loaded when first asked for."""

    def __init__(self, names: Sequence[str], weights: Mapping[str, Path], device: str = "cpu") -> None:
        """`names` are those of METRICS (present ones of a Resolved); `weights` maps `weights_of(names)` to files."""
        self.names = tuple(metric_of(name).name for name in names)
        lacking = [weight for weight in weights_of(names) if weight not in weights]
        if lacking:
            raise ValueError(f"expected files for {', '.join(weights_of(names))}; got none for {', '.join(lacking)}")
        self._instruments = Instruments(weights, device)

    def measure(self, face: FacePair, names: Sequence[str] | None = None) -> dict[str, float]:
        """Metric → value of one face, for the meter's metrics but those of sets, or for `names`, a part of them.

        Raises Unmeasurable.
        """
        chosen = self.names if names is None else names
        return {name: self._take(name, face) for name in chosen if METRICS[name].kind != "set"}

    def features(self, face: FacePair) -> NDArray[np.float32] | None:
        """The restored face's 2048 Inception features, for FID; None where the meter has no `fid`."""
        return self._instruments.inception_features(face.restored) if "fid" in self.names else None

    def _take(self, name: str, face: FacePair) -> float:
        if name not in self.names:
            raise UnknownMetric(f"this meter takes {', '.join(self.names)}; it was asked for {name}")
        try:
            value = self._instruments.take(name, face)
        except ValueError as error:
            raise Unmeasurable(f"{name}: {error}") from error
        if not math.isfinite(value):
            raise Unmeasurable(f"{name}: expected a number, got {value}")
        return value


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
