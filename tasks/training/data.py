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

from tasks.archive import LUMA, MEDIUM, MILD, SEVERE, VERY_SEVERE, Degradation, Image, degrade, sample_degradation
from tasks.faces import Levels, geometry
from tasks.training.scenes import draw_frame, elsewhere, framed

POINT_NAMES = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
FFHQ_POINTS = geometry.TEMPLATE.round(1)
"""Where the five points lie in an aligned face, to a tenth of a pixel: so the shipped networks were trained."""
SIDE = 512
SUFFIXES = {".jpg", ".jpeg", ".png"}
RIM = 8
"""Levels below which a border counts as a black rim."""


@dataclass(frozen=True, slots=True)
class Face:
    """An aligned face (512×512×3, 8-bit RGB), where it is real (512×512, 1 or 0), its photograph, where it is from."""

    name: str
    aligned: Levels
    valid: Levels
    photograph: Levels | None
    points: NDArray[np.float64] | None
    source: str = ""


def load_faces(folder: Path, split: str) -> list[Face]:
    """Read the faces of one split from a folder, sorted by name: "train", "val", and of train "fit" or "choose".

    Networks learn from "fit" and are chosen by "choose", every tenth person of train; "val" is for the last word.
    The folder holds `aligned512/` or the pictures themselves; beside them, optionally, `portraits.csv` (id,
    split, five points in the pixels of `whole/<id>.jpg`) and `whole/`. Or it holds `faces.csv` (source, file, split,
    person), which names pictures below it: people of several sources, some in several pictures. Without a table every
    tenth face is `val`. Raises FileNotFoundError when there is no picture.
    """
    named = folder / "faces.csv"
    found = _faces_named(named, split) if named.exists() else _portraits(folder, split)
    if not found:
        raise FileNotFoundError(
            f"{folder} holds no {split} pictures; expected aligned 512×512 faces (*.jpg, *.png), "
            "or aligned512/ with portraits.csv beside it, or faces.csv"
        )
    return found


def _faces_named(table: Path, split: str) -> list[Face]:
    rows = _rows(table, "source", "file", "split", "person")
    outer = "val" if split == "val" else "train"
    chosen = [row for row in sorted(rows, key=lambda row: row["file"]) if row["split"] == outer]
    if split in ("fit", "choose"):
        people = {person: n for n, person in enumerate(dict.fromkeys(row["person"] for row in chosen))}
        chosen = [row for row in chosen if (people[row["person"]] % 10 == 9) == (split == "choose")]
    return [_rimmed(table.parent / row["file"], row["source"]) for row in chosen]


def _rimmed(picture: Path, source: str) -> Face:
    """A face from elsewhere; a black rim around it is not real."""
    aligned = _aligned(picture)
    return Face(f"{source}/{picture.stem}", aligned, _inside_rim(aligned), None, None, source)


def _inside_rim(aligned: Levels) -> Levels:
    dark = (aligned.max(axis=2) < RIM).astype(np.uint8)
    _, heaps = cv2.connectedComponents(dark)
    edge = np.unique(np.concatenate([heaps[0], heaps[-1], heaps[:, 0], heaps[:, -1]]))
    rim = np.isin(heaps, edge[edge > 0])
    return np.asarray(1 - cv2.dilate(rim.astype(np.uint8), np.ones((9, 9), np.uint8)), np.uint8)


def _portraits(folder: Path, split: str) -> list[Face]:
    inner = folder / "aligned512"
    pictures = sorted(p for p in (inner if inner.is_dir() else folder).iterdir() if p.suffix.lower() in SUFFIXES)
    rows = _table(folder / "portraits.csv")
    outer = "val" if split == "val" else "train"
    chosen = [p for i, p in enumerate(pictures) if _split_of(rows.get(p.stem), i) == outer]
    if split in ("fit", "choose"):
        chosen = [p for i, p in enumerate(chosen) if (i % 10 == 9) == (split == "choose")]
    return [_face(folder, picture, rows.get(picture.stem)) for picture in chosen]


def _table(path: Path) -> dict[str, dict[str, str]]:
    return {row["id"]: row for row in _rows(path, "id", "split")} if path.exists() else {}


def _rows(path: Path, *needed: str) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        if lacking := set(needed) - set(table.fieldnames or ()):
            raise ValueError(f"{path} has no column {' and '.join(sorted(lacking))}; add it or remove the table")
        return list(table)


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
    aligned = _aligned(picture)
    whole = folder / "whole" / f"{picture.stem}.jpg"
    if row is None or not whole.exists():
        return Face(picture.stem, aligned, np.ones((SIDE, SIDE), np.uint8), None, None)
    points = np.array([[float(row[f"{name}_{axis}"]) for axis in "xy"] for name in POINT_NAMES])
    photograph = read_rgb(whole)
    return Face(picture.stem, aligned, _valid(points, photograph.shape), photograph, points)


def _aligned(picture: Path) -> Levels:
    aligned = read_rgb(picture)
    if aligned.shape[:2] == (SIDE, SIDE):
        return aligned
    return np.asarray(cv2.resize(aligned, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)


def _valid(points: NDArray[np.float64], shape: tuple[int, ...]) -> Levels:
    """Where the aligned crop shows the photograph rather than its mirrored border."""
    matrix, _ = cv2.estimateAffinePartial2D(points, FFHQ_POINTS, method=cv2.LMEDS)
    inside = cv2.warpAffine(np.ones(shape[:2], np.uint8), np.asarray(matrix), (SIDE, SIDE))
    return np.asarray(cv2.erode(np.asarray(inside), np.ones((9, 9), np.uint8)), np.uint8)


@dataclass(frozen=True, slots=True)
class Pair:
    """What a network is given and what it should return, H×W×3 in [0, 1], and where the truth is real."""

    given: Image
    truth: Image
    valid: Image


def to_float(levels: Levels) -> Image:
    """8-bit levels to float32 in [0, 1]."""
    return np.asarray(levels, np.float32) / np.float32(255)


def augment(face: Face, rng: np.random.Generator, side: int = SIDE, light: float = 1.0) -> tuple[Image, Image]:
    """A face as it might have been otherwise: mirrored, shifted, turned, lit and coloured differently.

    light: how differently; 0 = not at all.
    """
    turn, zoom = rng.normal(0, 3), rng.normal(1, 0.03)
    matrix = cv2.getRotationMatrix2D((SIDE / 2, SIDE / 2), float(turn), float(zoom) * side / SIDE)
    matrix[:, 2] += side / 2 - SIDE / 2 + rng.normal(0, 5 * side / SIDE, 2)
    source = face.aligned if side == SIDE else cv2.blur(face.aligned, (SIDE // side, SIDE // side))
    levels = cv2.warpAffine(source, matrix, (side, side), borderMode=cv2.BORDER_REFLECT_101)
    valid = cv2.warpAffine(face.valid, matrix, (side, side), flags=cv2.INTER_NEAREST)
    image, mask = np.asarray(levels, np.uint8), np.asarray(valid, np.float32)
    if rng.random() < 0.5:
        image, mask = image[:, ::-1], mask[:, ::-1]
    return relight(np.ascontiguousarray(image), rng, light), np.ascontiguousarray(mask)


def relight(levels: Levels, rng: np.random.Generator, strength: float = 1.0) -> Image:
    """Other exposure, contrast, saturation and light colour; darker and lighter skin alike. 8-bit levels in."""
    gamma = float(np.exp(strength * rng.normal(0, 0.3)))
    exposure = np.exp(strength * rng.normal(0, 0.04, 3)) * (1 + strength * rng.uniform(-0.3, 0.1))
    curve = (np.arange(256)[:, None] / 255) ** gamma * exposure
    tinted = np.asarray(cv2.LUT(levels, curve[None].astype(np.float32)))
    saturation = 1 + strength * float(rng.uniform(-0.4, 0.3))
    mix = np.full((3, 3), (1 - saturation) / 3) + np.eye(3) * saturation
    return np.asarray(np.clip(cv2.transform(tinted, mix), 0, 1), np.float32)


def restorer_pair(face: Face, seed: int, working: int, floor: float = 0.0) -> Pair:
    """A face and its degraded self, of `working` to 512 px, no larger than the degradation asks for.

    Haze, fading and cast stay in the truth: other networks see to them.
    """
    rng = np.random.default_rng(seed)
    drawn = _camera_or_preset(rng, floor)
    factor = _harmless_reduction(drawn, SIDE // working)
    image, valid = augment(face, rng, SIDE // factor)
    truth = degrade(image, _only_age(drawn), seed)
    given = degrade(truth, shrunk(_only_damage(drawn), factor), seed)
    return Pair(given, truth, valid)


def _harmless_reduction(drawn: Degradation, most: int) -> int:
    """How much smaller a face may be drawn, for speed, without a visible difference once it is degraded."""
    mildest = drawn.downscale if drawn.then is None else min(drawn.downscale, drawn.then.downscale)
    return max(factor for factor in (1, 2, 4) if factor <= most and (factor == 1 or mildest >= 2 * factor))


def shrunk(drawn: Degradation, factor: int) -> Degradation:
    """The same degradation for a face `factor` times smaller; a milder reduction than that becomes none."""
    lengths = {name: getattr(drawn, name) / factor for name in ("blur_sigma", "motion")}
    lengths["downscale"] = max(1.0, drawn.downscale / factor)
    then = None if drawn.then is None else shrunk(drawn.then, factor)
    return drawn.model_copy(update=lengths | {"then": then})


def _camera_or_preset(rng: np.random.Generator, floor: float) -> Degradation:
    kind = rng.random()
    if kind < 0.08:
        return Degradation(jpeg=None if rng.random() < 0.5 else 95)
    if kind < 0.45:
        presets = (MILD, MEDIUM, SEVERE, VERY_SEVERE) if floor == 0 else (SEVERE, VERY_SEVERE)
        return presets[int(rng.integers(len(presets)))]
    level = floor + (1 - floor) * rng.random() if rng.random() < 0.9 else rng.random()
    drawn = sample_degradation(int(rng.integers(2**31)), float(level), ageing=0.12)
    return _soft(drawn) if kind < 0.55 else drawn


def _soft(drawn: Degradation) -> Degradation:
    """The same without a flaw, as pictures are that were enlarged or are out of focus."""
    return drawn.model_copy(update={"noise": 0.0, "poisson": 0.0, "jpeg": 95, "then": None})


def _only_age(drawn: Degradation) -> Degradation:
    kept = ("haze", "haze_light", "fading", "cast", "cast_hue", "grey")
    return Degradation.model_validate({name: getattr(drawn, name) for name in kept})


def _only_damage(drawn: Degradation) -> Degradation:
    return drawn.model_copy(update={"haze": 0.0, "fading": 0.0, "cast": 0.0, "grey": False})


def quality_pair(face: Face, seed: int) -> Pair:
    """A face and its degraded self, ageing included; some are clean, some smooth, some one of the presets.

    Half of the faces are at most mirrored: turning and shifting costs the finest detail, and that is what is judged.
    """
    rng = np.random.default_rng(seed)
    if rng.random() < 0.5:
        image, valid = _as_it_is(face, mirrored=rng.random() < 0.5)
    else:
        image, valid = augment(face, rng, light=float(rng.uniform(0, 1)))
    return Pair(degrade(image, _judged(rng), seed), image, valid)


def _as_it_is(face: Face, mirrored: bool) -> tuple[Image, Image]:
    step = -1 if mirrored else 1
    return to_float(face.aligned[:, ::step]), np.asarray(face.valid[:, ::step], np.float32)


def _judged(rng: np.random.Generator) -> Degradation:
    """Mostly a preset: within one of them only what the face had to lose tells two pictures apart."""
    kind = rng.random()
    if kind < 0.05:
        return Degradation(jpeg=None if rng.random() < 0.7 else int(rng.integers(90, 96)))
    if kind < 0.64:
        presets = (MILD, MEDIUM, SEVERE, VERY_SEVERE)
        return presets[int(rng.integers(len(presets)))]
    drawn = sample_degradation(int(rng.integers(2**31)), ageing=0.15)
    return _soft(drawn) if kind < 0.73 else drawn


def tone_pair(face: Face, seed: int, draw: Callable[[np.random.Generator], Degradation], side: int = 128) -> Pair:
    """A reduced face with and without what `draw` does to its tones; a fifth is left alone.

    Both sides then suffer the same camera, so that only the tones differ. Three fifths keep nearly the light they were
    taken in; the others might have been taken anywhere (`elsewhere`), with light that is part of the truth. What light
    a face had and what was done to it cannot be told apart for certain.
    """
    rng = np.random.default_rng(seed)
    anywhere = rng.random() < 0.4
    image, valid = augment(face, rng, side, light=1.0 if anywhere else 0.15)
    if anywhere:
        image = elsewhere(image, rng)
    aged = image if rng.random() < (0.3 if anywhere else 0.2) else degrade(image, draw(rng), seed)
    if rng.random() < 0.05:
        aged, image = (np.repeat((picture @ LUMA)[..., None], 3, axis=2) for picture in (aged, image))
    if rng.random() < 0.08:
        inside, colour = draw_frame(side, rng)
        aged, image, valid = framed(aged, inside, colour), framed(image, inside, colour), valid * inside
    camera = Degradation()
    if rng.random() < 0.5:
        drawn = sample_degradation(int(rng.integers(2**31)), float(rng.uniform(0, 0.8)), ageing=0)
        camera = shrunk(drawn, SIDE // side)
    return Pair(degrade(aged, camera, seed), degrade(image, camera, seed), valid)


def draw_haze(rng: np.random.Generator) -> Degradation:
    """Haze, fading or both; haze is mostly as light as the degradation model's own."""
    kind = rng.random()
    light = 0.85 if rng.random() < 0.4 else float(rng.uniform(0.7, 1.0))
    return Degradation(
        haze=float(rng.uniform(0.1, 0.8)) if kind < 0.6 else 0.0,
        haze_light=light,
        fading=float(rng.uniform(0.1, 0.85)) if kind > 0.5 else 0.0,
    )


def draw_cast(rng: np.random.Generator) -> Degradation:
    """A colour cast of any hue."""
    return Degradation(cast=float(rng.uniform(0.1, 0.8)), cast_hue=float(rng.uniform(0, 360)))


def ita(image: Image) -> float:
    """Individual typology angle of the skin of an aligned face (512×512×3, [0, 1]), degrees; higher is lighter.

    atan2(L* − 50, b*) of the mean CIELAB colour of both cheeks (Chardon et al. 1991), the darkest and lightest
    quarters of their pixels left out.
    """
    cheeks = np.concatenate([image[270:350, 165:225].reshape(-1, 3), image[270:350, 290:350].reshape(-1, 3)])
    luma = cheeks.mean(axis=1)
    low, high = np.quantile(luma, [0.25, 0.75])
    skin = cheeks[(luma >= low) & (luma <= high)].mean(axis=0, dtype=np.float32)
    lightness, _, yellow = cv2.cvtColor(skin[None, None], cv2.COLOR_RGB2LAB)[0, 0].tolist()
    return float(np.degrees(np.arctan2(lightness - 50, yellow)))
