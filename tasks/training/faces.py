"""Crops with and without a face for the landmark network: shifted, scaled, turned, lit and degraded.

Faces come from whole photographs with known points; non-faces from the parts of those photographs that hold
no whole face and from scikit-image's pictures without people. Knows neither torch nor networks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from tasks.archive import Image, degrade, sample_degradation
from tasks.faces import CROP, Box, Jitter, Levels, crop_matrix, cut, propose
from tasks.models.compact.faces import MIRRORED, box_of_points
from tasks.training.data import Face, read_rgb, relight

# Coins bear heads. Coffee, rocket, chelsea and the motorcycles' right view are kept for testing.
FACE_FREE = (
    *("brick", "cell", "grass", "gravel", "horse", "hubble_deep_field", "ihc", "logo", "moon"),
    *("motorcycle_left", "page", "retina", "text", "color", "clock_motion", "microaneurysms"),
)


@dataclass(frozen=True, slots=True)
class Crop:
    """A 64×64×3 crop in [0, 1], its five points as fractions of the side, and whether it holds a face."""

    image: Image
    points: NDArray[np.float32]
    face: bool


def draw_jitter(rng: np.random.Generator, shift: float = 0.15, scale: float = 0.2, turn: float = 30) -> Jitter:
    """Draw evenly from ± shift (share of the box), 1 ± scale and ± turn (degrees)."""
    x, y = rng.uniform(-shift, shift, 2)
    return Jitter(float(x), float(y), float(rng.uniform(1 - scale, 1 + scale)), float(rng.uniform(-turn, turn)))


def face_crop(face: Face, seed: int, jitter: Jitter | None = None) -> Crop:
    """A crop around a face's rough box; the jitter is drawn when none is given."""
    picture, points = _needed(face)
    rng = np.random.default_rng(seed)
    chosen = jitter or _training_jitter(rng)
    matrix = crop_matrix(box_of_points(points), chosen)
    image = _over_background(picture, matrix, rng)
    where = (points @ matrix[:, :2].T + matrix[:, 2]) / CROP
    if rng.random() < 0.5:
        image, where = image[:, ::-1], np.stack([1 - where[:, 0], where[:, 1]], 1)[list(MIRRORED)]
    spoiled = _occlude(_spoil(np.ascontiguousarray(image), rng, seed), rng)
    return Crop(spoiled, where.astype(np.float32), True)


def _needed(face: Face) -> tuple[Levels, NDArray[np.float64]]:
    if face.photograph is None or face.points is None:
        raise ValueError(
            f"{face.name} has no photograph or no points; training the landmark network needs "
            "portraits.csv with five points and whole/<id>.jpg"
        )
    return face.photograph, face.points


def _training_jitter(rng: np.random.Generator) -> Jitter:
    wide = draw_jitter(rng, 0.2, 0.27, 35)
    return wide if rng.random() < 0.7 else Jitter(wide.shift_x, wide.shift_y, wide.scale, wide.turn * 0.2)


def _over_background(picture: Levels, matrix: NDArray[np.float64], rng: np.random.Generator) -> Levels:
    """The crop, with what lies beyond the photograph filled by its edge, its mirror or another texture."""
    kind = rng.random()
    if kind < 0.3:
        return cut(picture, matrix)
    if kind < 0.5:
        return cut(picture, matrix, cv2.BORDER_REFLECT_101)
    inside = cut(np.full(picture.shape, 255, np.uint8), matrix, cv2.BORDER_CONSTANT) / 255.0
    other = nonface_texture(rng)
    return np.asarray(cut(picture, matrix) * inside + other * (1 - inside), np.uint8)


@cache
def _textures() -> tuple[Levels, ...]:
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    found = [p for name in FACE_FREE for p in (folder / f"{name}.png", folder / f"{name}.jpg") if p.exists()]
    return tuple(_moderate(read_rgb(path)) for path in found)


def _moderate(picture: Levels, most: int = 400) -> Levels:
    """Large pictures reduced: the cascade looks through them all before training starts."""
    shrink = min(1.0, most / max(picture.shape[:2]))
    return np.asarray(cv2.resize(picture, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA), np.uint8)


def nonface_texture(rng: np.random.Generator) -> Levels:
    """A random 64×64 piece, of any size and direction, of a picture without people."""
    textures = _textures()
    picture = textures[int(rng.integers(len(textures)))]
    side = float(np.exp(rng.uniform(np.log(32), np.log(min(picture.shape[:2])))))
    x, y = rng.uniform(0, 1, 2) * (np.array(picture.shape[1::-1]) - side).clip(1)
    box = (float(x), float(y), side / 1.5, side / 1.5)
    return cut(picture, crop_matrix(box, Jitter(0.25, 0.25, 1.0, float(rng.choice([0, 0, 90, 180])))))


def _spoil(image: Levels, rng: np.random.Generator, seed: int) -> Image:
    lit = relight(image, rng)
    drawn = sample_degradation(int(rng.integers(2**31)), float(rng.uniform(0, 0.4)), ageing=0.15)
    return degrade(lit, drawn, seed)


def _occlude(image: Image, rng: np.random.Generator) -> Image:
    if rng.random() > 0.15:
        return image
    image = image.copy()
    (x, y), (w, h) = rng.integers(0, CROP - 8, 2), rng.integers(6, 26, 2)
    image[y : y + h, x : x + w] = rng.uniform(0, 1, 3)
    return image


def nonface_crop(face: Face, seed: int) -> Crop:
    """A crop without a face in its middle: texture, clothes, or a face far too large, small or off-centre."""
    rng = np.random.default_rng(seed)
    picture, points = _needed(face)
    kind = rng.random()
    if kind < 0.3:
        image = nonface_texture(rng)
    elif kind < 0.55:
        image = _mistaken(face, rng)
    else:
        box = box_of_points(points)
        jitter = _wrong_jitter(rng) if kind < 0.92 else Jitter(turn=float(rng.uniform(110, 250)))
        image = cut(picture, crop_matrix(box, jitter), int(rng.choice([1, 4])))
    return Crop(_spoil(image, rng, seed), np.full((5, 2), 0.5, np.float32), False)


def _mistaken(face: Face, rng: np.random.Generator) -> Levels:
    """What the cascade took for a face and is none: in this photograph where there is such, or in a texture."""
    picture, points = _needed(face)
    if face.name not in _MISTAKES:
        right = box_of_points(points)
        _MISTAKES[face.name] = [box for box in propose(picture) if not _alike(box, right)]
    boxes = _MISTAKES[face.name]
    if not boxes or rng.random() < 0.7:
        picture, boxes = _mistaken_textures()[int(rng.integers(len(_mistaken_textures())))]
    box = boxes[int(rng.integers(len(boxes)))]
    return cut(picture, crop_matrix(box, draw_jitter(rng, 0.1, 0.15, 20)))


_MISTAKES: dict[str, list[Box]] = {}


@cache
def _mistaken_textures() -> tuple[tuple[Levels, list[Box]], ...]:
    found = ((picture, propose(picture)) for picture in _textures())
    return tuple((picture, boxes) for picture, boxes in found if boxes)


def _alike(box: Box, right: Box) -> bool:
    """Whether a box might still pass for the right one."""
    offset = max(abs(box[i] + box[i + 2] / 2 - right[i] - right[i + 2] / 2) for i in (0, 1))
    return offset < 0.5 * right[2] and 0.5 < box[2] / right[2] < 2


def _wrong_jitter(rng: np.random.Generator) -> Jitter:
    angle, turn = rng.uniform(0, 2 * np.pi), float(rng.uniform(-40, 40))
    kind = rng.random()
    if kind < 0.35:
        return Jitter(
            float(rng.uniform(-0.4, 0.4)), float(rng.uniform(-0.5, 0.5)), float(rng.uniform(0.15, 0.45)), turn
        )
    if kind < 0.5:
        return Jitter(float(rng.uniform(-1, 1)), float(rng.uniform(-1, 1)), float(rng.uniform(2.2, 4)), turn)
    if kind < 0.75:
        return Jitter(float(rng.uniform(-1, 1)), float(rng.uniform(0.8, 1.5)), float(rng.uniform(0.2, 1)), turn)
    distance = rng.uniform(0.6, 1.1)
    x, y = distance * np.cos(angle), distance * np.sin(angle)
    return Jitter(float(x), float(y), float(rng.uniform(0.5, 1.2)), turn)
