"""Measures of a restored face: what each is called, what it needs, which way it points, and the meter that takes them.

Metrics whose weights or package are absent are named with what they need; none ever stands in for another. The
meter takes one face at a time, in float32, so that no number depends on a face's neighbours. The module knows
nothing of files, pairs or data sets (see tasks.measure and tasks.challenge), and imports torch only to measure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tasks.stage import Pixels

Kind = Literal["no_reference", "identity", "full_reference", "set"]
Better = Literal["higher", "lower"]

CHALLENGE = ("niqe", "clipiqa", "maniqa", "musiq", "qalign", "fid", "identity")
"""What the NTIRE 2025 challenge on real-world face restoration measures."""


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


ADAFACE = "adaface_ir50_ms1mv2"
ONNX = "face_embedding_onnx"
LPIPS = ("lpips_alexnet", "lpips_alex")

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("niqe", "NIQE", "no_reference", "lower", weights=("niqe_pristine",)),
        Metric("clipiqa", "CLIPIQA", "no_reference", "higher", weights=("clip_rn50",), extra="iqa"),
        Metric("maniqa", "MANIQA", "no_reference", "higher", weights=("maniqa_koniq",), extra="iqa"),
        Metric("musiq", "MUSIQ", "no_reference", "higher", weights=("musiq_koniq",), extra="iqa"),
        Metric("qalign", "Q-Align", "no_reference", "higher", weights=("one_align",), extra="iqa"),
        Metric("liqe", "LIQE", "no_reference", "higher", weights=("clip_vit_b32", "liqe_koniq"), extra="iqa"),
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


@dataclass(frozen=True)
class FacePair:
    """One restored face beside the input it came from, and beside the truth where that is known.

    RGB float32 in [0, 1], (H, W, 3), usually 512×512; `points` (5, 2) are the *input's* landmarks (x, y) in the
    512-pixel frame, in the order of tasks.geometry. They are applied to all pictures.
    """

    restored: Pixels
    input: Pixels
    truth: Pixels | None
    points: NDArray[np.float64]


class Store(Protocol):
    """What is asked of infra.weights.WeightsStore."""

    def sha256(self, name: str) -> str: ...

    def path(self, name: str) -> Path: ...


def default_metrics(truth: bool) -> tuple[str, ...]:
    """What is measured unless told otherwise: what the challenge and the project measure, and against a known truth."""
    raise NotImplementedError


def resolve(names: Sequence[str], store: Store, truth: bool) -> Resolved:
    """Which of `names` (none: `default_metrics`) can be measured with the files of `store`.

    Where AdaFace is absent and `face_embedding_onnx` is there, `identity` is missing and `identity_onnx` present.
    Raises UnknownMetric.
    """
    raise NotImplementedError


def weights_of(names: Sequence[str]) -> tuple[str, ...]:
    """The files that a Meter for these metrics loads, by their names in infra/weights.toml, each once."""
    raise NotImplementedError


class Meter:
    """Takes metrics of faces; built once per worker. Networks are loaded when first asked for."""

    def __init__(self, names: Sequence[str], weights: Mapping[str, Path], device: str = "cpu") -> None:
        """`names` are those of METRICS (present ones of a Resolved); `weights` maps `weights_of(names)` to files."""
        raise NotImplementedError

    def measure(self, face: FacePair, names: Sequence[str] | None = None) -> dict[str, float]:
        """Metric → value of one face, for the meter's metrics but those of sets, or for `names`, a part of them.

        Raises Unmeasurable.
        """
        raise NotImplementedError

    def features(self, face: FacePair) -> NDArray[np.float32] | None:
        """The restored face's 2048 Inception features, for FID; None where the meter has no `fid`."""
        raise NotImplementedError
