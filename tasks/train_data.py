"""Aligned faces for training, and the pairs (degraded, truth) that the picture networks learn from.

Everything drawn is a pure function of a seed, so that an interrupted training goes on with what it would
have seen. Knows folders of pictures and the degradation model; knows neither torch nor networks.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from tasks.degrade import MEDIUM, MILD, SEVERE, VERY_SEVERE, Degradation, Image, degrade, sample_degradation
from tasks.face_crops import Levels

POINT_NAMES = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
FFHQ_POINTS = np.array([(193.0, 239.9), (318.9, 240.2), (256.6, 314.0), (201.3, 371.4), (313.1, 371.2)])
SIDE = 512


@dataclass(frozen=True)
class Face:
    """An aligned face (512×512×3, 8-bit RGB), where it is real (512×512, 1 or 0), and its photograph."""

    name: str
    aligned: Levels
    valid: Levels
    photograph: Levels | None
    points: NDArray[np.float64] | None


def load_faces(folder: Path, split: str) -> list[Face]:
    """Read the faces of one split ("train" or "val") from a folder, sorted by name.

    The folder holds `aligned512/` or the pictures themselves; beside them, optionally, `portraits.csv` (id,
    split, five points in the pixels of `whole/<id>.jpg`) and `whole/`. Without the table every tenth face
    is `val`. Raises FileNotFoundError when there is no picture.
    """
    inner = folder / "aligned512"
    pictures = sorted(p for p in (inner if inner.is_dir() else folder).iterdir() if p.suffix in {".jpg", ".png"})
    rows = _table(folder / "portraits.csv")
    chosen = [p for i, p in enumerate(pictures) if _split_of(rows.get(p.stem), i) == split]
    if not chosen:
        raise FileNotFoundError(
            f"{folder} holds no {split} pictures; expected aligned 512×512 faces (*.jpg, *.png), "
            "or aligned512/ with portraits.csv beside it"
        )
    return [_face(folder, picture, rows.get(picture.stem)) for picture in chosen]


def _table(path: Path) -> dict[str, dict[str, str]]:
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def _split_of(row: dict[str, str] | None, index: int) -> str:
    if row is not None:
        return row["split"]
    return "val" if index % 10 == 9 else "train"


def read_rgb(path: Path) -> Levels:
    """Read a picture as H×W×3 8-bit RGB. Raises ValueError when it is not one."""
    levels = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if levels is None:
        raise ValueError(f"{path} is not a readable picture; remove it from the training folder")
    return np.ascontiguousarray(np.asarray(levels, np.uint8)[..., ::-1])


def _face(folder: Path, picture: Path, row: dict[str, str] | None) -> Face:
    aligned = read_rgb(picture)
    if aligned.shape[:2] != (SIDE, SIDE):
        aligned = np.asarray(cv2.resize(aligned, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)
    whole = folder / "whole" / f"{picture.stem}.jpg"
    if row is None or not whole.exists():
        return Face(picture.stem, aligned, np.ones((SIDE, SIDE), np.uint8), None, None)
    points = np.array([[float(row[f"{name}_{axis}"]) for axis in "xy"] for name in POINT_NAMES])
    photograph = read_rgb(whole)
    return Face(picture.stem, aligned, _valid(points, photograph.shape), photograph, points)


def _valid(points: NDArray[np.float64], shape: tuple[int, ...]) -> Levels:
    """Where the aligned crop shows the photograph rather than its mirrored border."""
    matrix, _ = cv2.estimateAffinePartial2D(points, FFHQ_POINTS, method=cv2.LMEDS)
    inside = cv2.warpAffine(np.ones(shape[:2], np.uint8), np.asarray(matrix), (SIDE, SIDE))
    return np.asarray(cv2.erode(np.asarray(inside), np.ones((9, 9), np.uint8)), np.uint8)


@dataclass(frozen=True)
class Pair:
    """What a network is given and what it should return, H×W×3 in [0, 1], and where the truth is real."""

    given: Image
    truth: Image
    valid: Image


def to_float(levels: Levels) -> Image:
    """8-bit levels to float32 in [0, 1]."""
    return np.asarray(levels, np.float32) / np.float32(255)


def augment(face: Face, rng: np.random.Generator, side: int = SIDE) -> tuple[Image, Image]:
    """A face as it might have been otherwise: mirrored, shifted, turned, lit and coloured differently."""
    turn, zoom = rng.normal(0, 3), rng.normal(1, 0.03)
    matrix = cv2.getRotationMatrix2D((SIDE / 2, SIDE / 2), float(turn), float(zoom) * side / SIDE)
    matrix[:, 2] += side / 2 - SIDE / 2 + rng.normal(0, 5 * side / SIDE, 2)
    source = face.aligned if side == SIDE else cv2.blur(face.aligned, (SIDE // side, SIDE // side))
    levels = cv2.warpAffine(source, matrix, (side, side), borderMode=cv2.BORDER_REFLECT_101)
    valid = cv2.warpAffine(face.valid, matrix, (side, side), flags=cv2.INTER_NEAREST)
    image, mask = np.asarray(levels, np.uint8), np.asarray(valid, np.float32)
    if rng.random() < 0.5:
        image, mask = image[:, ::-1], mask[:, ::-1]
    return relight(to_float(image), rng), np.ascontiguousarray(mask)


def relight(image: Image, rng: np.random.Generator) -> Image:
    """Other exposure, contrast, saturation and light colour; darker and lighter skin alike."""
    gamma = float(np.exp(rng.normal(0, 0.3)))
    exposure = np.exp(rng.normal(0, 0.04, 3)) * rng.uniform(0.7, 1.1)
    tinted = np.asarray(cv2.pow(image, gamma), np.float32) * exposure.astype(np.float32)
    grey = tinted.mean(axis=2, keepdims=True)
    coloured = grey + (tinted - grey) * float(rng.uniform(0.6, 1.3))
    return np.asarray(np.clip(coloured, 0, 1), np.float32)


def restorer_pair(face: Face, seed: int, working: int, floor: float = 0.0) -> Pair:
    """A face and its degraded self, of `working` to 512 px, no larger than the degradation asks for.

    Haze, fading and cast stay in the truth: other networks see to them.
    """
    rng = np.random.default_rng(seed)
    drawn = _camera_or_preset(rng, floor)
    factor = _harmless_reduction(drawn, SIDE // working)
    image, valid = augment(face, rng, SIDE // factor)
    truth = degrade(image, _only_age(drawn), seed)
    given = degrade(truth, _shrunk(_only_damage(drawn), factor), seed)
    return Pair(given, truth, valid)


def _harmless_reduction(drawn: Degradation, most: int) -> int:
    """How much smaller a face may be drawn, for speed, without a visible difference once it is degraded."""
    mildest = drawn.downscale if drawn.then is None else min(drawn.downscale, drawn.then.downscale)
    return max(factor for factor in (1, 2, 4) if factor <= most and (factor == 1 or mildest >= 2 * factor))


def _shrunk(drawn: Degradation, factor: int) -> Degradation:
    """The same degradation for a face `factor` times smaller."""
    lengths = {name: getattr(drawn, name) / factor for name in ("blur_sigma", "motion", "downscale")}
    then = None if drawn.then is None else _shrunk(drawn.then, factor)
    return drawn.model_copy(update=lengths | {"then": then})


def _camera_or_preset(rng: np.random.Generator, floor: float) -> Degradation:
    kind = rng.random()
    if kind < 0.12:
        return Degradation(jpeg=None if rng.random() < 0.5 else 95)
    if kind < 0.35:
        presets = (MILD, MEDIUM, SEVERE, VERY_SEVERE) if floor == 0 else (SEVERE, VERY_SEVERE)
        return presets[int(rng.integers(len(presets)))]
    level = floor + (1 - floor) * rng.random() if rng.random() < 0.9 else rng.random()
    return sample_degradation(int(rng.integers(2**31)), float(level), ageing=0.12)


def _only_age(drawn: Degradation) -> Degradation:
    kept = ("haze", "haze_light", "fading", "cast", "cast_hue", "grey")
    return Degradation.model_validate({name: getattr(drawn, name) for name in kept})


def _only_damage(drawn: Degradation) -> Degradation:
    return drawn.model_copy(update={"haze": 0.0, "fading": 0.0, "cast": 0.0, "grey": False})


def quality_pair(face: Face, seed: int) -> Pair:
    """A face and its degraded self, ageing included; every tenth is clean."""
    rng = np.random.default_rng(seed)
    image, valid = augment(face, rng)
    if rng.random() < 0.1:
        return Pair(image, image, valid)
    drawn = sample_degradation(int(rng.integers(2**31)), ageing=0.15)
    return Pair(degrade(image, drawn, seed), image, valid)


def tone_pair(face: Face, seed: int, draw: Callable[[np.random.Generator], Degradation], side: int = 128) -> Pair:
    """A reduced face with and without what `draw` does to its tones; a fifth is left alone.

    Both sides then suffer the same light camera, so that only the tones differ.
    """
    rng = np.random.default_rng(seed)
    image, valid = augment(face, rng, side)
    aged = image if rng.random() < 0.2 else degrade(image, draw(rng), seed)
    camera = Degradation()
    if rng.random() < 0.4:
        camera = sample_degradation(int(rng.integers(2**31)), float(rng.uniform(0, 0.3)), ageing=0)
    return Pair(degrade(aged, camera, seed), degrade(image, camera, seed), valid)


def draw_haze(rng: np.random.Generator) -> Degradation:
    """Haze, fading or both."""
    kind = rng.random()
    return Degradation(
        haze=float(rng.uniform(0.1, 0.8)) if kind < 0.65 else 0.0,
        haze_light=float(rng.uniform(0.65, 1.0)),
        fading=float(rng.uniform(0.1, 0.85)) if kind > 0.55 else 0.0,
    )


def draw_cast(rng: np.random.Generator) -> Degradation:
    """A colour cast of any hue."""
    return Degradation(cast=float(rng.uniform(0.1, 0.8)), cast_hue=float(rng.uniform(0, 360)))
