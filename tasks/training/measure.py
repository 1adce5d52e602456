"""What a small network gains over its own absence, on faces that it was not trained on.

Every number is over the real pixels of the aligned faces, at full size, with fixed seeds. Knows networks,
faces and degradations; knows no training loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn

from tasks.archive import (
    COLOUR_CAST,
    FADING,
    HAZE,
    MEDIUM,
    MILD,
    PRESETS,
    SEVERE,
    VERY_SEVERE,
    Degradation,
    Image,
    degrade,
    sample_degradation,
)
from tasks.models.compact.faces import both_ways
from tasks.training.data import Face, draw_cast, draw_haze, to_float
from tasks.training.faces import draw_jitter, face_crop, nonface_crop
from tasks.training.identity import restored
from tasks.training.identity_measure import likeness_of, separation, trials

Table: TypeAlias = dict[str, dict[str, float]]
CLEAN = Degradation()
Draw: TypeAlias = Callable[[int], Degradation]


def measure(name: str, net: nn.Module, faces: list[Face]) -> Table:
    """Rows of figures for one network of `tasks.training.networks.NETWORKS`, in evaluation mode, float32."""
    if name == "landmarks":
        return measure_landmarks(net, faces)
    if name == "quality":
        return measure_quality(net, faces)
    if name == "identity":
        return measure_identity(net, faces)
    return {row: measure_picture(net, faces, draw) for row, draw in ROWS[name].items()}


def _fixed(degradation: Degradation) -> Draw:
    return lambda seed: degradation


def _mixed(floor: float) -> Draw:
    return lambda seed: sample_degradation(seed, floor + (1 - floor) * (seed % 10) / 9, ageing=0)


CAMERA: dict[str, Draw] = {
    "mild": _fixed(MILD),
    "medium": _fixed(MEDIUM),
    "severe": _fixed(SEVERE),
    "very_severe": _fixed(VERY_SEVERE),
}
ROWS: dict[str, dict[str, Draw]] = {
    "restorer": CAMERA | {"mixed": _mixed(0), "clean": _fixed(CLEAN)},
    "severe": CAMERA | {"mixed, severe half": _mixed(0.5), "clean": _fixed(CLEAN)},
    "dehaze": {
        "haze": _fixed(HAZE),
        "fading": _fixed(FADING),
        "mixed": lambda seed: draw_haze(np.random.default_rng(seed)),
        "clean": _fixed(CLEAN),
    },
    "skin_tone": {
        "colour_cast": _fixed(COLOUR_CAST),
        "mixed": lambda seed: draw_cast(np.random.default_rng(seed)),
        "clean": _fixed(CLEAN),
    },
}


def run_picture(net: nn.Module, image: Image) -> Image:
    """One picture (H×W×3, [0, 1]) through a network that returns a picture."""
    with torch.inference_mode():
        made = net(torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None])
    return np.asarray(made[0].numpy().transpose(1, 2, 0), np.float32)


def psnr(made: Image, face: Face, truth: Image) -> float:
    """PSNR over the real pixels, dB; 99 where the pictures are the same."""
    error = float(((made - truth) ** 2)[face.valid > 0].mean())
    return min(99.0, float(-10 * np.log10(error + 1e-12)))


def measure_picture(net: nn.Module, faces: list[Face], draw: Draw) -> dict[str, float]:
    """Mean PSNR in dB of input and output, how many faces got worse, and the mean shift of lightness."""
    given, left, lighter = [], [], []
    for seed, face in enumerate(faces):
        truth = to_float(face.aligned)
        spoiled = degrade(truth, draw(seed), seed)
        made = run_picture(net, spoiled)
        given.append(psnr(spoiled, face, truth))
        left.append(psnr(made, face, truth))
        lighter.append(float((made - truth)[160:420, 150:362].mean()) * 255)
    gain = np.array(left) - np.array(given)
    return {
        "input": float(np.mean(given)),
        "output": float(np.mean(left)),
        "gain": float(gain.mean()),
        "worse": float((gain < -0.05).mean()),
        "face_lightness_shift": float(np.mean(lighter)),
    }


def measure_quality(net: nn.Module, faces: list[Face]) -> Table:
    """Spearman correlation of the score with the true PSNR, over all degradations and within each."""

    def score(picture: Image) -> float:
        with torch.inference_mode():
            return float(net(torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))[None])[0])

    return measure_scores(score, faces)


def measure_scores(score: Callable[[Image], float], faces: list[Face]) -> Table:
    """Spearman correlation of any score of a picture (H×W×3, [0, 1]) with the true PSNR, and its means."""
    levels = {name: _fixed(PRESETS[name]) for name in CAMERA} | {"mixed": _mixed(0)}
    drawn = {name: [_scored(score, face, draw(i), i) for i, face in enumerate(faces)] for name, draw in levels.items()}
    rows = {name: {"spearman": _rank(values)} for name, values in drawn.items()}
    clean = [score(to_float(face.aligned)) for face in faces]
    rows["all"] = {"spearman": _rank([value for values in drawn.values() for value in values])}
    for name, values in drawn.items():
        rows[name]["mean_score"] = float(np.mean([score for score, _ in values]))
    rows["clean"] = {"mean_score": float(np.mean(clean)), "lowest": float(np.min(clean))}
    return rows


def measure_identity(net: nn.Module, faces: list[Face]) -> Table:
    """Areas under the ROC curve of the shipped restorer's results against planted features and other people."""
    drawn = {name: trials(faces, draw, restored) for name, draw in CAMERA.items()}
    return {name: separation(likeness_of(net), found) for name, found in drawn.items()}


def _scored(score: Callable[[Image], float], face: Face, degradation: Degradation, seed: int) -> tuple[float, float]:
    truth = to_float(face.aligned)
    spoiled = degrade(truth, degradation, seed)
    return score(spoiled), psnr(spoiled, face, truth)


def _rank(values: list[tuple[float, float]]) -> float:
    scores, truths = zip(*values, strict=True)
    return float(spearmanr(scores, truths).statistic)


def measure_landmarks(net: nn.Module, faces: list[Face], views: int = 8) -> Table:
    """Mean point error in per cent of the inter-eye distance, and how faces and non-faces are told apart.

    Boxes are shifted by ± 15 %, scaled by ± 20 %, turned by ± 30°, and degraded as in training. The truth is the
    faces' points: those of `tasks.training.points` are less uncertain than the table's. The constant guess is the
    mean of the truths themselves, the best that any constant can be.
    """
    rng = np.random.default_rng(0)
    seeds = [(face, 1000 * view + i) for view in range(views) for i, face in enumerate(faces)]
    crops = [face_crop(face, seed, draw_jitter(rng)) for face, seed in seeds]
    others = [nonface_crop(face, seed) for face, seed in seeds]
    points, logits = _locate(net, np.stack([crop.image for crop in crops]))
    _, wrong = _locate(net, np.stack([crop.image for crop in others]))
    truth = np.stack([crop.points for crop in crops])
    eyes = np.linalg.norm(truth[:, 0] - truth[:, 1], axis=1)
    error = np.linalg.norm(points - truth, axis=2).mean(axis=1) / eyes
    guess = np.linalg.norm(truth.mean(axis=0) - truth, axis=2).mean(axis=1) / eyes
    return {
        "points": {
            "error_percent": float(100 * error.mean()),
            "median_percent": float(100 * np.median(error)),
            "constant_percent": float(100 * guess.mean()),
        },
        "face": {"faces_lost": float((logits < 0).mean()), "others_taken": float((wrong > 0).mean())},
    }


def _locate(net: nn.Module, images: Image) -> tuple[Image, Image]:
    with torch.inference_mode():
        points, logits = both_ways(net, torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))))
    return points.numpy(), logits.numpy()
