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

from tasks.degrade import Image, degrade, sample_degradation
from tasks.models.compact_faces import box_of_points, landmark_crop
from tasks.train_data import Face, Levels, read_rgb, relight, to_float

CROP = 64
# Coffee, rocket, chelsea and the motorcycles' right view are kept for testing.
FACE_FREE = (
    *("brick", "cell", "coins", "grass", "gravel", "horse", "hubble_deep_field", "ihc", "logo", "moon"),
    *("motorcycle_left", "page", "retina", "text", "color", "clock_motion", "microaneurysms"),
)


@dataclass(frozen=True)
class Crop:
    """A 64×64×3 crop in [0, 1], its five points as fractions of the side, and whether it holds a face."""

    image: Image
    points: NDArray[np.float32]
    face: bool


@dataclass(frozen=True)
class Jitter:
    """How far a rough box is from the right one: shares of its side, a factor, degrees."""

    shift_x: float = 0.0
    shift_y: float = 0.0
    scale: float = 1.0
    turn: float = 0.0


def draw_jitter(rng: np.random.Generator, shift: float = 0.15, scale: float = 0.2, turn: float = 30) -> Jitter:
    """Draw evenly from ± shift (share of the box), 1 ± scale and ± turn (degrees)."""
    x, y = rng.uniform(-shift, shift, 2)
    return Jitter(float(x), float(y), float(rng.uniform(1 - scale, 1 + scale)), float(rng.uniform(-turn, turn)))


def crop_matrix(box: tuple[float, float, float, float], jitter: Jitter) -> NDArray[np.float64]:
    """The 2×3 matrix that takes picture pixels to the pixels of the 64×64 crop of a jittered box."""
    x, y, side = landmark_crop(box)
    centre = x + side / 2 + jitter.shift_x * box[2], y + side / 2 + jitter.shift_y * box[3]
    matrix = cv2.getRotationMatrix2D(centre, jitter.turn, CROP / (side * jitter.scale))
    matrix[:, 2] += CROP / 2 - np.array(centre)
    return np.asarray(matrix, np.float64)


def cut(picture: Levels, matrix: NDArray[np.float64], border: int = cv2.BORDER_REPLICATE) -> Levels:
    """Cut a crop out of a picture, 8-bit, reducing it first by the whole factor that leaves enough pixels."""
    factor = int(1 / float(np.hypot(matrix[0, 0], matrix[0, 1])))
    reduced = matrix.copy()
    if factor > 1:
        size = max(1, picture.shape[1] // factor), max(1, picture.shape[0] // factor)
        stretch = np.diag([picture.shape[1] / size[0], picture.shape[0] / size[1]])
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
        reduced[:, :2] = matrix[:, :2] @ stretch
    reduced[:, 2] += reduced[:, :2] @ np.array([0.5, 0.5]) - 0.5
    return np.asarray(cv2.warpAffine(picture, reduced, (CROP, CROP), borderMode=border), np.uint8)


def face_crop(face: Face, seed: int, jitter: Jitter | None = None) -> Crop:
    """A crop around a face's rough box; the jitter is drawn when none is given."""
    picture, points = _needed(face)
    rng = np.random.default_rng(seed)
    chosen = jitter or _training_jitter(rng)
    matrix = crop_matrix(box_of_points(points), chosen)
    image = _over_background(picture, matrix, rng)
    where = (points @ matrix[:, :2].T + matrix[:, 2]) / CROP
    if rng.random() < 0.5:
        image, where = image[:, ::-1], np.stack([1 - where[:, 0], where[:, 1]], 1)[[1, 0, 2, 4, 3]]
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
    return tuple(read_rgb(path) for path in found)


def nonface_texture(rng: np.random.Generator) -> Levels:
    """A random 64×64 piece, of any size and direction, of a picture without people."""
    textures = _textures()
    picture = textures[int(rng.integers(len(textures)))]
    side = float(np.exp(rng.uniform(np.log(32), np.log(min(picture.shape[:2])))))
    x, y = rng.uniform(0, 1, 2) * (np.array(picture.shape[1::-1]) - side).clip(1)
    box = (float(x), float(y), side / 1.5, side / 1.5)
    return cut(picture, crop_matrix(box, Jitter(0.25, 0.25, 1.0, float(rng.choice([0, 0, 90, 180])))))


def _spoil(image: Levels, rng: np.random.Generator, seed: int) -> Image:
    lit = relight(to_float(image), rng)
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
    if kind < 0.45:
        image = nonface_texture(rng)
    else:
        box = box_of_points(points)
        jitter = _wrong_jitter(rng) if kind < 0.9 else Jitter(turn=float(rng.uniform(110, 250)))
        image = cut(picture, crop_matrix(box, jitter), int(rng.choice([1, 4])))
    return Crop(_spoil(image, rng, seed), np.full((5, 2), 0.5, np.float32), False)


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
