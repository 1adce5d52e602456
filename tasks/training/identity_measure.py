"""What a judge of identity can do, on people it never saw: honest restorations against faces with planted features.

Each trial is a degraded face and what a restorer might make of it. Honest are the restoration and the truth itself;
planted are the same two with eyes, nose, mouth or the inner face of somebody else, and somebody else altogether.
Knows faces, degradations and recognition crops; knows no network by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import nn

from tasks.archive import Degradation, Image, degrade
from tasks.faces import recognition_crop
from tasks.training.data import Face, to_float

Floats: TypeAlias = NDArray[np.float64]
Restore: TypeAlias = Callable[[Image], Image]
Likeness: TypeAlias = Callable[[Image, Image], Floats]
"""Similarity of a crop (112, 112, 3) with each of (N, 112, 112, 3)."""
REGIONS: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {
    "eyes": ((256, 236), (108, 40)),
    "nose": ((256, 290), (44, 52)),
    "mouth": ((256, 374), (76, 38)),
    "inner": ((256, 300), (118, 136)),
}
"""Centre and half-axes of what is planted, in the 512-pixel aligned face."""
HONEST = ("restored", "truth")


@dataclass(frozen=True, slots=True)
class Trial:
    """A degraded face and its candidates, as recognition crops; `names` are those of the candidates.

    A name is `restored` or `truth`, or one of them with what was planted: `truth.mouth`, `restored.other`.
    """

    face: str
    given: Image
    names: tuple[str, ...]
    candidates: Image

    @property
    def honest(self) -> NDArray[np.bool_]:
        """Which candidates show the same person."""
        return np.isin(self.names, HONEST)


def planted(one: Image, other: Image, region: str) -> Image:
    """A face (512×512×3) with a region of another, brought to its mean colour and faded in."""
    centre, axes = REGIONS[region]
    mask = np.zeros(one.shape[:2], np.float32)
    cv2.ellipse(mask, centre, axes, 0, 0, 360, 1.0, -1)
    inside = mask > 0
    matched = other + (one[inside].mean(axis=0) - other[inside].mean(axis=0))
    share = cv2.GaussianBlur(mask, (0, 0), 6)[..., None]
    return np.asarray((one + share * (matched - one)).clip(0, 1), np.float32)


def trials(faces: Sequence[Face], draw: Callable[[int], Degradation], restore: Restore, seed: int = 0) -> list[Trial]:
    """One trial for each face; what is planted comes from another of them, nearer with a smaller seed."""
    truths = [to_float(face.aligned) for face in faces]
    given = [degrade(truth, draw(1000 * seed + n), 1000 * seed + n) for n, truth in enumerate(truths)]
    pictures = {"restored": [restore(image) for image in given], "truth": truths}
    return [_trial(face.name, given[n], pictures, n, (n + 1 + seed) % len(faces)) for n, face in enumerate(faces)]


def _trial(name: str, given: Image, pictures: dict[str, list[Image]], own: int, other: int) -> Trial:
    made: dict[str, Image] = {}
    for kind, images in pictures.items():
        made[kind] = images[own]
        made |= {f"{kind}.{region}": planted(images[own], images[other], region) for region in REGIONS}
        made[f"{kind}.other"] = images[other]
    crops = np.stack([recognition_crop(image) for image in made.values()])
    return Trial(name, recognition_crop(given), tuple(made), crops)


def small_grey(one: Image, others: Image) -> Floats:
    """The judge that needs no network: correlation of the crops, grey, reduced to 16×16."""
    rows = np.stack([cv2.resize(c.mean(axis=2), (16, 16), interpolation=cv2.INTER_AREA) for c in (one, *others)])
    flat = rows.reshape(len(rows), -1) - rows.mean(axis=(1, 2))[:, None]
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    return np.asarray(unit[1:] @ unit[0], np.float64)


def likeness_of(net: nn.Module) -> Likeness:
    """The least of the parts' cosines that an IdentityNet gives."""

    def likeness(one: Image, others: Image) -> Floats:
        crops = np.stack([one, *others]).transpose(0, 3, 1, 2)
        with torch.inference_mode():
            vectors, _ = net(torch.from_numpy(np.ascontiguousarray(crops)))
            least = net.agreement(vectors[:1], vectors[1:]).amin(dim=1)  # type: ignore[operator]
        return np.asarray(least.numpy(), np.float64)

    return likeness


def separation(judge: Likeness, found: Sequence[Trial]) -> dict[str, float]:
    """Area under the ROC curve of honest candidates against each kind that is planted, over all trials."""
    rows = [(judge(t.given, t.candidates), t) for t in found]
    honest = np.concatenate([values[t.honest] for values, t in rows])
    areas = {}
    for kind in (*REGIONS, "other"):
        wrong = [v for values, t in rows for v, n in zip(values, t.names, strict=True) if n.endswith(f".{kind}")]
        areas[kind] = area(honest, np.array(wrong))
    return areas


def area(right: Floats, wrong: Floats) -> float:
    """Probability that one of `right` is above one of `wrong` (the area under the ROC curve)."""
    ranks = rankdata(np.concatenate([right, wrong]))[: len(right)]
    return float((ranks.sum() - len(right) * (len(right) + 1) / 2) / (len(right) * len(wrong)))
