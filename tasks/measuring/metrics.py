"""The one table of metrics: what each is called, how it is taken, what it needs, and which way it points.

A metric is one entry of the table and one instrument; every list of metrics anywhere is read from here. The module
knows nothing of files, pairs or data sets, and naming metrics loads neither torch nor OpenCV.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from infra.problems import ForPeople
from tasks.faces import ADAFACE, ONNX
from tasks.measuring.instruments import (
    ADAFACE_TO_INPUT,
    ADAFACE_TO_TRUTH,
    DETAIL,
    FEATURES,
    LPIPS,
    ONNX_TO_INPUT,
    ONNX_TO_TRUTH,
    PSNR,
    SHARPNESS,
    SSIM,
    STRUCTURE,
    Instrument,
    scored_by,
)

Kind = Literal["no_reference", "identity", "full_reference", "set"]
Better = Literal["higher", "lower"]
Floats = NDArray[np.float64]
Worth = Callable[[Floats], Floats]
IQA, COMPACT = "tasks.models.quality.iqa", "tasks.models.compact.table"
BEFORE, AFTER = "aligned", "restored"
"""The images of a face that metrics in the ledger are taken of (`quality.aligned`): as it was, and its result."""
OLD_IMAGES = {"input": BEFORE, "final": AFTER}
"""What ledgers of earlier versions call them."""


class UnknownMetric(ForPeople):
    """No metric has this name; the message lists those that exist."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Metric:
    """One measure.

    better: which way it points; "" where more is neither better nor worse.
    instrument: how it is taken of a face; None: only a stage of a recipe takes it.
    weights: names of infra/weights/weights.toml, in the order in which the instrument takes the files; set_weights
    are needed only where faces come together into one number. version: raised whenever the same face and weights would
    give another number. extra: the pip extra that brings the package it needs. substitute: the metric of a network of
    one's own that is measured, under its own name, where this one's weights are absent.
    usual: measured unless told otherwise. gate: measured by the nightly gate unless its settings say otherwise.
    worth: its values on a scale from 0 to 1, higher is better, as terms of a score. challenge: its column in the files
    of the NTIRE 2025 challenge; metrics with a column and a worth make up the challenge's Score.
    leads: pictures are compared by it wherever it was taken. ranked: a fall is a regression. digits: of means.
    parameters_m: millions of parameters of its network; None: nobody knows.
    """

    name: str
    title: str
    kind: Kind
    better: Better | Literal[""]
    instrument: Instrument | None = None
    weights: tuple[str, ...] = ()
    set_weights: tuple[str, ...] = ()
    version: int = 1
    needs_truth: bool = False
    extra: str = ""
    substitute: str = ""
    usual: bool = False
    gate: bool = False
    worth: Worth | None = None
    challenge: str = ""
    leads: bool = False
    ranked: bool = True
    digits: int = 4
    parameters_m: float | None = None

    @property
    def recognises(self) -> bool:
        """Whether a recognition network takes it: it needs landmarks, and a threshold says who is the same person."""
        return bool({ADAFACE, ONNX} & set(self.weights))


def _up_to(most: float) -> Worth:
    return lambda values: values / most


def _down_from(most: float) -> Worth:
    return lambda values: np.maximum(0, (most - values) / most)


# fmt: off
METRICS: dict[str, Metric] = {metric.name: metric for metric in (
    Metric("niqe", "NIQE", "no_reference", "lower", scored_by(f"{IQA}:niqe_from"), ("niqe_pristine",),
           usual=True, gate=True, worth=_down_from(10), challenge="NIQE", parameters_m=0.0),
    Metric("clipiqa", "CLIP-IQA", "no_reference", "higher", scored_by(f"{IQA}:clipiqa_from"), ("clip_rn50",),
           extra="iqa", usual=True, gate=True, worth=_up_to(1), challenge="CLIP_IQA", parameters_m=102.0),
    Metric("maniqa", "MANIQA", "no_reference", "higher", scored_by(f"{IQA}:maniqa_from"), ("maniqa_koniq",),
           extra="iqa", usual=True, gate=True, worth=_up_to(1), challenge="MANIQA"),
    Metric("musiq", "MUSIQ", "no_reference", "higher", scored_by(f"{IQA}:musiq_from"), ("musiq_koniq",),
           extra="iqa", usual=True, gate=True, worth=_up_to(100), challenge="MUSIQ", digits=2, parameters_m=27.1),
    Metric("qalign", "Q-Align", "no_reference", "higher", scored_by(f"{IQA}:qalign_from"), ("one_align",),
           extra="iqa", usual=True, worth=_up_to(5), challenge="QALIGN"),
    Metric("fid", "FID to FFHQ", "set", "lower", FEATURES, ("fid_inception",), ("fid_ffhq512",),
           usual=True, worth=_down_from(100), challenge="FID", digits=2),
    Metric("identity", "AdaFace similarity to the input", "identity", "higher", ADAFACE_TO_INPUT, (ADAFACE,),
           substitute="identity_onnx", usual=True, gate=True, challenge="ID_Sim"),
    Metric("identity_onnx", "Similarity to the input (own network)", "identity", "higher", ONNX_TO_INPUT, (ONNX,)),
    Metric("quality", "Compact quality", "no_reference", "higher", scored_by(f"{COMPACT}:load_compact"),
           ("compact_quality",), usual=True, gate=True, worth=_up_to(1), leads=True, parameters_m=0.0),
    Metric("sharpness", "Sharpness", "no_reference", "higher", SHARPNESS,
           usual=True, gate=True, ranked=False, parameters_m=0.0),  # noise is sharp, too
    Metric("detail", "Detail", "no_reference", "higher", DETAIL, parameters_m=0.0),
    Metric("structure", "Structure", "no_reference", "higher", STRUCTURE, parameters_m=0.0),
    Metric("liqe", "LIQE", "no_reference", "higher", scored_by(f"{IQA}:liqe_from"), ("clip_vit_b32", "liqe_koniq"),
           extra="iqa"),
    Metric("niqe_basicsr", "NIQE as BasicSR takes it", "no_reference", "lower",
           scored_by(f"{IQA}:niqe_basicsr_from"), ("niqe_pristine",), parameters_m=0.0),
    Metric("niqe_portraits", "NIQE fitted on portraits", "no_reference", "lower",
           scored_by(f"{IQA}:niqe_from"), ("niqe_portraits",), parameters_m=0.0),
    Metric("psnr", "PSNR", "full_reference", "higher", PSNR, needs_truth=True, usual=True, digits=2),
    Metric("ssim", "SSIM", "full_reference", "higher", SSIM, needs_truth=True, usual=True),
    Metric("lpips", "LPIPS (AlexNet)", "full_reference", "lower", LPIPS, ("lpips_alexnet", "lpips_alex"),
           needs_truth=True, usual=True),
    Metric("identity_truth", "AdaFace similarity to the truth", "full_reference", "higher", ADAFACE_TO_TRUTH,
           (ADAFACE,), needs_truth=True, substitute="identity_truth_onnx", usual=True),
    Metric("identity_truth_onnx", "Similarity to the truth (own network)", "full_reference", "higher", ONNX_TO_TRUTH,
           (ONNX,), needs_truth=True),
)}
"""name → what can be measured of a face, in the order of tables."""
RECORDED: dict[str, Metric] = {metric.name: metric for metric in (
    Metric("identity", "Similarity to the input", "identity", "higher"),
    Metric("identity_compact", "Similarity to the input (small judge)", "identity", "higher"),
    Metric("change", "Change of pixels", "full_reference", ""),
)}
"""What stages record beside; `identity` there is by whichever judge the run had."""
# fmt: on


def metric_of(name: str) -> Metric:
    """The metric of that name. Raises UnknownMetric."""
    if name not in METRICS:
        raise UnknownMetric(f"no metric is called {name!r}; known are {', '.join(METRICS)}")
    return METRICS[name]


def meaning_of(name: str) -> Metric:
    """The metric of an evaluation; a name that the table does not know is a score of which more is better."""
    return METRICS.get(name) or Metric(name, name.replace("_", " "), "no_reference", "higher")


def recorded(name: str) -> Metric:
    """The metric that a stage recorded under this name, without the image's (`quality` of `quality.aligned`)."""
    return RECORDED.get(name) or meaning_of(name)


def names_of(wanted: Callable[[Metric], bool]) -> tuple[str, ...]:
    """The names of all metrics of a kind, in the order of tables."""
    return tuple(name for name, metric in METRICS.items() if wanted(metric))


def default_metrics(truth: bool) -> tuple[str, ...]:
    """What is measured unless told otherwise: what the challenge and the project measure, and against a known truth."""
    return names_of(lambda metric: metric.usual and (truth or not metric.needs_truth))


def gate_metrics() -> tuple[str, ...]:
    """What the nightly gate measures unless its settings say otherwise; Q-Align is left out for its size."""
    return names_of(lambda metric: metric.gate)


def challenge_metrics() -> tuple[str, ...]:
    """What the NTIRE 2025 challenge on real-world face restoration measures."""
    return names_of(lambda metric: bool(metric.challenge))


def worths() -> dict[str, Worth]:
    """Metrics that say by themselves how good a face is → their worth. Sharpness has none: noise is sharp."""
    return {name: metric.worth for name, metric in METRICS.items() if metric.worth and metric.kind == "no_reference"}


def identities() -> tuple[str, ...]:
    """Similarities to the input; the first of these that was measured says who is who."""
    return names_of(lambda metric: metric.kind == "identity")


def weights_of(names: Iterable[str]) -> tuple[str, ...]:
    """The files that a Meter for these metrics loads, by their names in infra/weights/weights.toml, each once."""
    return tuple(dict.fromkeys(weight for name in names for weight in metric_of(name).weights))


def of_today(metrics: Mapping[str, float]) -> dict[str, float]:
    """A ledger row's metrics by today's names: earlier versions wrote `quality.input` and `quality.final`."""
    return {_of_today(name): value for name, value in metrics.items()}


def _of_today(name: str) -> str:
    base, dot, image = name.rpartition(".")
    return f"{base}{dot}{OLD_IMAGES.get(image, image)}"
