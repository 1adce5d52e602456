"""What the identity network learns from: views of one face, and the same face with its features elsewhere.

One picture of a person is all there is. Its views differ in damage, restoration and light, all cut by one matrix as
input and result are; the other person is another picture, or this one with features moved by some pixels. Knows
faces, degradations and the shipped restorer; knows no training loop.
"""

from __future__ import annotations

import zlib
from functools import cache
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from tasks.archive import LUMA, MEDIUM, MILD, SEVERE, VERY_SEVERE, Degradation, Image, degrade, sample_degradation
from tasks.faces import RECOGNITION_SIDE, Levels, geometry
from tasks.models.compact.identity import PARTS
from tasks.models.compact.table import load_compact
from tasks.training.data import Face, relight, shrunk

WORKING = 256
CENTRES = np.concatenate([geometry.TEMPLATE[:3], geometry.TEMPLATE[3:].mean(axis=0, keepdims=True), [[256, 256]]])
"""Where the five parts of tasks.models.compact.identity lie in the aligned face."""
Views: TypeAlias = dict[str, Tensor]
SHARPNESS_OF_LOSS, MIDDLE = 12.0, 0.5
RESTORER = Path(__file__).parents[1] / "models" / "weights" / "restorer.safetensors"


def identity_views(face: Face, seed: int) -> Views:
    """Five grey recognition crops (5, 112, 112), 8 bits: degraded, its restoration, clean, degraded otherwise, another.

    `moved` (5) says in which parts the last one is another person; `who` is a number for the face's name.
    """
    rng = np.random.default_rng(seed)
    field = _wobble(rng, 4.0)
    elsewhere = _bump(rng) if rng.random() < 0.5 else _wobble(rng, float(rng.uniform(6.0, 12.0)))
    steady = _matrix(rng)
    mirrored = rng.random() < 0.5
    lit = _levels(relight(_warped(face.aligned, steady, field, mirrored), rng))
    other = _levels(relight(_warped(face.aligned, steady, field + elsewhere, mirrored), rng))
    clean = _relit(lit, rng)
    given = degrade(_relit(lit, rng, 0.3), _damage(rng), seed)
    views = [
        given,
        _restoration(given, clean, rng, seed),
        clean,
        degrade(_relit(lit, rng), _damage(rng), seed + 1),
        _restoration(_relit(other, rng), _relit(other, rng), rng, seed + 2),
    ]
    moved = np.linalg.norm(_at_centres(elsewhere, mirrored), axis=1) > 6.0
    return {
        "views": torch.from_numpy(np.stack([_crop(view, rng) for view in views])),
        "moved": torch.from_numpy(moved),
        "who": torch.tensor(zlib.crc32(face.name.encode())),
    }


def identity_loss(net: nn.Module, batch: Views) -> Tensor:
    """Contrastive, part by part: a degraded part belongs to its own face, and neither to another nor to a moved one.

    NT-Xent (Chen et al. 2020) tells which is nearest; the pairwise logistic loss (as in SigLIP, Zhai et al. 2023)
    keeps cosines comparable between faces, because one threshold stands behind them all.
    """
    views = batch["views"].transpose(0, 1)[:, :, None].float() / 255
    parts: Tensor = net.describe(views.flatten(0, 1)).unflatten(0, views.shape[:2])  # type: ignore[operator]
    cosines = torch.einsum("apd,opd->pao", parts[[0, 3, 1]].flatten(0, 1), parts[[1, 2, 4]].flatten(0, 1))
    same, different = _pairs(batch["who"], batch["moved"])
    return _nearest(cosines, same, different) + _apart(cosines, same, different) + _untrusted(net, views)


def _untrusted(net: nn.Module, views: Tensor) -> Tensor:
    given, clean = views[[0, 3]].flatten(0, 1), views[[2, 2]].flatten(0, 1)
    shown: Tensor = net.shown(given, clean)  # type: ignore[operator]
    trust: Tensor = net.trust(given)  # type: ignore[operator]
    return functional.smooth_l1_loss(trust, shown, beta=0.05)


def _pairs(who: Tensor, moved: Tensor) -> tuple[Tensor, Tensor]:
    """Which of (parts, anchors, others) are the same person and which are not; some are neither."""
    count = len(who)
    alike, mine = who[:, None] == who[None], torch.eye(count, dtype=torch.bool, device=who.device)
    none = torch.zeros_like(mine)
    same = torch.cat([torch.cat([mine, mine, none], 1)] * 2 + [torch.cat([none, mine, none], 1)])
    stranger = torch.cat([~alike] * 3, 1).expand(len(PARTS), -1, -1)
    displaced = torch.cat([none, none, mine], 1) & moved.T[:, None, :].repeat(1, 1, 3)
    different = (stranger | displaced).repeat(1, 3, 1)
    return same.expand(len(PARTS), -1, -1), different


def _nearest(cosines: Tensor, same: Tensor, different: Tensor) -> Tensor:
    logits = SHARPNESS_OF_LOSS * cosines
    against = logits.masked_fill(~different, -torch.inf).logsumexp(dim=2, keepdim=True)
    return functional.softplus(against - logits)[same].mean()


def _apart(cosines: Tensor, same: Tensor, different: Tensor) -> Tensor:
    """The hardest tenth of the others counts as much as all of them."""
    logits = SHARPNESS_OF_LOSS * (cosines - MIDDLE)
    wrong = functional.softplus(logits)[different]
    hardest = wrong.topk(max(1, len(wrong) // 10)).values
    return functional.softplus(-logits)[same].mean() + wrong.mean() + hardest.mean()


def _matrix(rng: np.random.Generator) -> NDArray[np.float64]:
    """A small turn, zoom and shift of the face, in pixels of the aligned face."""
    matrix = cv2.getRotationMatrix2D((256, 280), float(rng.normal(0, 4)), float(rng.normal(1, 0.04)))
    matrix[:, 2] += rng.normal(0, 6, 2)
    return np.asarray(matrix, np.float64)


def _wobble(rng: np.random.Generator, spread: float) -> Image:
    """Where every pixel is fetched from: a smooth field (256, 256, 2), in pixels of the aligned face."""
    nodes = rng.normal(0, spread, (6, 6, 2)).astype(np.float32)
    return np.asarray(cv2.resize(nodes, (WORKING, WORKING), interpolation=cv2.INTER_CUBIC), np.float32)


def _bump(rng: np.random.Generator) -> Image:
    """One feature moved, and with it what lies around: a field as `_wobble` gives it."""
    centre = CENTRES[int(rng.integers(4))] / 2 + rng.normal(0, 4, 2)
    y, x = np.mgrid[0:WORKING, 0:WORKING].astype(np.float32)
    share = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * rng.uniform(12, 22) ** 2))
    angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(8, 26)
    moved = share[..., None] * (length * np.array([np.cos(angle), np.sin(angle)]))
    return np.asarray(moved, np.float32)


def _at_centres(field: Image, mirrored: bool) -> Image:
    """What the field does to the five parts (5, 2); to the face as a whole, on average."""
    x, y = (CENTRES / 2).astype(int).T
    found = field[y, WORKING - 1 - x if mirrored else x]
    found[-1] = np.sqrt((field**2).mean(axis=(0, 1)))
    return np.asarray(found, np.float32)


def _warped(levels: Levels, matrix: NDArray[np.float64], field: Image, mirrored: bool) -> Levels:
    """The face at 256 pixels, moved by the matrix and by the field."""
    y, x = np.mgrid[0:WORKING, 0:WORKING].astype(np.float32) * 2 + np.float32(0.5)
    fetched = np.stack([x, y], axis=2) @ matrix[:, :2].T.astype(np.float32) + matrix[:, 2].astype(np.float32) + field
    moved = cv2.remap(cv2.blur(levels, (2, 2)), fetched, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return np.ascontiguousarray(moved[:, ::-1] if mirrored else moved)


def _levels(image: Image) -> Levels:
    return np.asarray(image.clip(0, 1) * 255 + 0.5, np.uint8)


def _relit(levels: Levels, rng: np.random.Generator, strength: float = 0.6) -> Image:
    return relight(levels, rng, strength if rng.random() < 0.6 else 0.0)


def _damage(rng: np.random.Generator) -> Degradation:
    if rng.random() < 0.4:
        return shrunk((MILD, MEDIUM, SEVERE, VERY_SEVERE)[int(rng.integers(4))], 2)
    return shrunk(sample_degradation(int(rng.integers(2**31)), ageing=0.12), 2)


def _restoration(given: Image, clean: Image, rng: np.random.Generator, seed: int) -> Image:
    """What a restorer might return: ours, a blend with the truth, or the truth slightly damaged."""
    kind = rng.random()
    if kind < 0.4:
        return restored(given)
    if kind < 0.55:
        return np.asarray(given + np.float32(rng.uniform(0.3, 0.9)) * (clean - given), np.float32)
    slight = sample_degradation(int(rng.integers(2**31)), float(rng.uniform(0, 0.35)), ageing=0)
    return degrade(clean, shrunk(slight, 2), seed)


@cache
def _restorer() -> nn.Module:
    restorer = load_compact(RESTORER)
    setattr(restorer, "mirrored", False)  # noqa: B010 - half the time, and hardly another picture
    return restorer


def restored(given: Image) -> Image:
    """What the shipped restorer makes of a degraded face, in one pass."""
    with torch.inference_mode():
        made = _restorer()(torch.from_numpy(np.ascontiguousarray(given.transpose(2, 0, 1)))[None])[0]
    return np.ascontiguousarray(made.numpy().transpose(1, 2, 0))


def _crop(image: Image, rng: np.random.Generator) -> Levels:
    """The recognition crop of a face at 256 pixels, hardly off its place, seen by a film of any colour response."""
    response = LUMA * np.exp(rng.normal(0, 0.5, 3)).astype(np.float32)
    grey = cv2.GaussianBlur(image @ (response / response.sum()), (0, 0), 0.7)
    shake = cv2.getRotationMatrix2D(
        (RECOGNITION_SIDE / 2, RECOGNITION_SIDE / 2), float(rng.normal(0, 0.4)), float(rng.normal(1, 0.004))
    )
    shake[:, 2] += rng.normal(0, 0.3, 2)
    matrix = shake @ np.vstack([geometry.aligned_to_recognition(WORKING), [0, 0, 1]])
    return _levels(np.asarray(cv2.warpAffine(grey, matrix, (RECOGNITION_SIDE, RECOGNITION_SIDE)), np.float32))
