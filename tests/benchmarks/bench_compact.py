"""The compact networks against the best that needs none: gains in dB, identity, skin tones, faces per second.

    python tests/benchmarks/bench_compact.py [--split val] [--faces 8] [--levels mild haze] [--only pisa_sr gfpgan]
                                             [--weights FOLDER] [--tune] [--json FILE]

The stages of recipe `compact` that work on aligned faces run one by one in this process, the leave-alone gate off.
Truth is the aligned face; what counts are its real pixels, the mirrored border left out. The baseline is the
better, per face, of bicubic (the degraded face as it comes) and OpenCV's own denoising and sharpening, with settings
chosen for each degradation by `--tune` on faces of `fit`; for tones the better of grey-world and of matching
mean and deviation to the faces of `fit`. `--split choose` is for choosing, `val` for the last word.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product
from pathlib import Path

import cv2
import numpy as np
from places import SHARED

from tasks.archive.degradation import PRESETS, Degradation, Image, degrade
from tasks.faces import Judge, onnx_judge
from tasks.training.data import Face, ita, load_faces, to_float
from tasks.training.measure import psnr

JUDGE = SHARED / "data" / "weights" / "MobileFaceNet.onnx"
TONES = ("haze", "fading", "colour_cast")
LEVELS: dict[str, Degradation] = {**PRESETS, "clean": Degradation()}
TARGETS = {  # least gain in dB, least change of the identity cosine
    "mild": (0.5, -0.005),
    "medium": (1.2, 0.01),
    "severe": (1.8, 0.15),
    "very_severe": (1.2, 0.04),
    **dict.fromkeys(TONES, (1.5, 0.0)),
}
CLEAN_DB = 40.0


@dataclass(frozen=True)
class Classical:
    """OpenCV's non-local means at 1/`factor` of the size, then an unsharp mask."""

    factor: int
    strength: float
    amount: float
    sigma: float

    def __call__(self, image: Image) -> Image:
        side = image.shape[0]
        levels = cv2.resize(
            (image * 255 + 0.5).astype(np.uint8), (side // self.factor,) * 2, interpolation=cv2.INTER_AREA
        )
        if self.strength:
            levels = cv2.fastNlMeansDenoisingColored(levels, None, self.strength, self.strength, 5, 15)
        large = cv2.resize(levels.astype(np.float32) / 255, (side, side), interpolation=cv2.INTER_CUBIC)
        sharp = large + self.amount * (large - cv2.GaussianBlur(large, (0, 0), self.sigma))
        return np.asarray(np.clip(sharp, 0, 1), np.float32)


TUNED = {
    "mild": Classical(1, 4, 0.2, 1),
    "medium": Classical(4, 4, 0.2, 4),
    "severe": Classical(8, 6, 0.0, 1),
    "very_severe": Classical(16, 6, 0.0, 1),
}
THIRDS = ("dark", "middle", "light")


def tune(faces: list[Face]) -> dict[str, Classical]:
    """The settings with the highest mean PSNR, for each degradation of detail."""
    best = {}
    for level in TUNED:
        pairs = [(degrade(to_float(face.aligned), LEVELS[level], 1000 + i), face) for i, face in enumerate(faces)]
        tried = [Classical(*values) for values in _grid(int(LEVELS[level].downscale))]
        best[level] = max(tried, key=lambda way: _mean_psnr(way, pairs))
        print(f"{level}: {best[level]}", flush=True)
    return best


def _mean_psnr(way: Classical, pairs: list[tuple[Image, Face]]) -> float:
    return float(np.mean([psnr(way(given), face, to_float(face.aligned)) for given, face in pairs]))


def _grid(reduction: int) -> list[tuple[int, float, float, float]]:
    strengths = (0, 2, 3, 4, 6) if reduction <= 4 else (0, 4, 6, 8, 12, 18)
    factors = [reduction] if reduction > 2 else [1, 2]
    sharpening = [(0.0, 1.0), *product((0.2, 0.5), (reduction / 2, float(reduction)))]
    return [(f, h, amount, sigma) for f, h, (amount, sigma) in product(factors, strengths, sharpening)]


def grey_world(image: Image) -> Image:
    """Every channel's mean becomes the mean of all."""
    means = image.mean(axis=(0, 1))
    return np.asarray(np.clip(image * (means.mean() / np.maximum(means, 1e-3)), 0, 1), np.float32)


def matching(faces: list[Face]) -> Callable[[Image], Image]:
    """Every channel gets the mean and deviation that faces have on average."""
    small = [cv2.resize(face.aligned, (64, 64), interpolation=cv2.INTER_AREA) / np.float32(255) for face in faces]
    mean = np.mean([picture.mean(axis=(0, 1)) for picture in small], axis=0)
    spread = np.mean([picture.std(axis=(0, 1)) for picture in small], axis=0)

    def match(image: Image) -> Image:
        reduced = cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA)
        scaled = (image - reduced.mean(axis=(0, 1))) / (reduced.std(axis=(0, 1)) + 1e-3)
        return np.asarray(np.clip(scaled * spread + mean, 0, 1), np.float32)

    return match


class Graph:
    """The recipe's face stages, loaded; calling it restores one aligned face."""

    def __init__(self, only: list[str] | None, weights: Path | None) -> None:
        from tasks.recipes.recipe import load_recipe

        chosen = [s for s in load_recipe("compact").stages if s.scope == "face" and s.cls.name != "evaluate"]
        self.stages = []
        for stage in chosen:
            if only is not None and stage.cls.name != "score" and stage.id not in only:
                continue
            loaded = stage.cls(stage.settings, {name: _file(name, weights) for name in stage.weights})
            loaded.load("cpu", "float32")
            self.stages.append((stage, loaded))

    def __call__(self, given: Image) -> Image:
        from tasks.stage import Batch
        from tasks.stage import Face as StageFace

        images, metrics = {"aligned": given, "restored": given}, dict[str, float]()
        for stage, loaded in self.stages:
            if not stage.applies_to(metrics):
                continue
            stack = {name: images.get(name, images["restored"])[None] for name in stage.reads}
            (result,) = loaded.run(Batch([StageFace("face", 0)], stack))  # type: ignore[attr-defined]
            metrics |= result.outcome.metrics
            images |= result.images
        return np.asarray(images["restored"], np.float32).clip(0, 1)


def _file(name: str, folder: Path | None) -> Path:
    """Weights of the table, from `folder` where it has them: a training's result before it is shipped."""
    from infra.settings import load_settings
    from infra.weights.store import WeightsStore

    shipped = WeightsStore(load_settings().weights_dir).path(name)
    other = None if folder is None else folder / shipped.name
    return other if other is not None and other.exists() else shipped


@cache
def _judge() -> Judge | None:
    return onnx_judge(JUDGE) if JUDGE.exists() else None


def likeness(one: Image, other: Image) -> float:
    """Cosine of the judge's vectors; not a number where the judge is absent."""
    from tasks.faces.geometry import recognition_crop

    judge = _judge()
    if judge is None:
        return float("nan")
    a, b = judge(np.stack([recognition_crop(one), recognition_crop(other)]))
    return float(a @ b)


@dataclass(frozen=True, slots=True)
class Measured:
    """One face: PSNR in dB of what came in, of ours and of the rivals, likeness to the truth, ITA in degrees."""

    name: str
    input: float
    ours: float
    rivals: dict[str, float]
    likeness_input: float
    likeness: float
    ita: float
    ita_ours: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Level:
    """One degradation: its faces, and the means over them that `summary` draws."""

    level: str
    faces: list[Measured]
    summary: dict[str, float]


def measure_level(level: str, faces: list[Face], ways: Mapping[str, Callable[[Image], Image]]) -> Level:
    """Every face restored by ours and by its rivals."""
    rows = []
    for seed, face in enumerate(faces):
        truth = to_float(face.aligned)
        given = degrade(truth, LEVELS[level], seed)
        began = time.process_time()
        made = ways["ours"](given)
        seconds = time.process_time() - began
        rivals = {name: psnr(way(given), face, truth) for name, way in ways.items() if name != "ours"}
        rows.append(
            Measured(
                face.name,
                input=psnr(given, face, truth),
                ours=psnr(made, face, truth),
                rivals=rivals,
                likeness_input=likeness(given, truth),
                likeness=likeness(made, truth),
                ita=ita(truth),
                ita_ours=ita(made),
                seconds=seconds,
            )
        )
    return Level(level, rows, summary(level, rows))


def summary(level: str, rows: list[Measured]) -> dict[str, float]:
    """Means over faces; by terciles of the truth's ITA how far the worst lies below, and how far tones moved."""
    given, ours, tone = (np.array(values) for values in zip(*((r.input, r.ours, r.ita) for r in rows), strict=True))
    baseline = np.array([max([*row.rivals.values(), *([] if level in TONES else [row.input])]) for row in rows])
    gain, same = ours - baseline, np.array([row.likeness - row.likeness_input for row in rows])
    moved = np.array([row.ita_ours - row.ita for row in rows])
    thirds = np.array_split(np.argsort(tone), 3)
    return {
        "input": float(given.mean()),
        "baseline": float(baseline.mean()),
        "ours": float(ours.mean()),
        "gain": float(gain.mean()),
        "worse_than_input": float((ours < given - 0.05).mean()),
        "likeness_input": float(np.mean([row.likeness_input for row in rows])),
        "likeness_gain": float(same.mean()),
        "worst_third_db": float(min(gain[t].mean() for t in thirds) - gain.mean()),
        "worst_third_likeness": float(min(same[t].mean() for t in thirds) - same.mean()),
        **{f"ita_{n}": float(moved[t].mean()) for n, t in zip(THIRDS, thirds, strict=True)},
        "seconds": float(np.median([row.seconds for row in rows])),
    }


def verdict(level: str, row: dict[str, float]) -> str:
    """What of the targets is missed."""
    if level == "clean":
        missed = [] if row["ours"] >= CLEAN_DB else ["clean"]
    else:
        decibels, likeness_ = TARGETS[level]
        missed = [] if row["gain"] >= decibels else ["dB"]
        missed += ["identity"] if row["likeness_gain"] < likeness_ else []
        missed += ["thirds"] if row["worst_third_db"] < -0.5 or row["worst_third_likeness"] < -0.02 else []
    missed += ["ITA"] if max(abs(row[f"ita_{n}"]) for n in THIRDS) > 3 else []
    return "met" if not missed else "missed: " + ", ".join(missed)


def print_table(results: list[Level]) -> None:
    """Markdown."""
    print("| degradation | input dB | baseline dB | ours dB | gain | identity, input | change ", end="")
    print("| worst third: dB, identity | ITA dark, middle, light | targets |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for result in results:
        level, row = result.level, result.summary
        tones = ", ".join(f"{row[f'ita_{n}']:+.1f}" for n in THIRDS)
        print(
            f"| {level} | {row['input']:.2f} | {row['baseline']:.2f} | {row['ours']:.2f} | {row['gain']:+.2f} "
            f"| {row['likeness_input']:.3f} | {row['likeness_gain']:+.3f} "
            f"| {row['worst_third_db']:+.2f}, {row['worst_third_likeness']:+.3f} | {tones} | {verdict(level, row)} |"
        )


def main() -> None:
    """Measures, prints a Markdown table, and writes every number where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "portraits", help="folder of aligned faces")
    parser.add_argument("--split", choices=["choose", "val"], default="choose")
    parser.add_argument("--faces", type=int, default=1000, help="at most so many, evenly taken")
    parser.add_argument("--levels", nargs="+", choices=list(LEVELS), default=list(LEVELS))
    parser.add_argument("--only", nargs="+", help="ids of the recipe's stages to run; none = all")
    parser.add_argument("--weights", type=Path, help="folder with weights to try in place of the shipped ones")
    parser.add_argument("--tune", action="store_true", help="choose the classical baseline's settings and stop")
    parser.add_argument("--json", type=Path, help="write the numbers of every face here")
    given = parser.parse_args()
    fit = load_faces(given.data, "fit")
    if given.tune:
        tune(fit[:: max(1, len(fit) // 12)][:12])
        return
    faces = load_faces(given.data, given.split)
    faces = faces[:: max(1, -(-len(faces) // given.faces))]
    if _judge() is None:
        print(f"identity is not judged: {JUDGE.name} is not in {JUDGE.parent}")
    ours, match = Graph(given.only, given.weights), matching(fit)
    results = []
    for level in given.levels:
        rivals = {"grey_world": grey_world, "matching": match} if level in TONES else {}
        if level in TUNED:
            rivals = {"classical": TUNED[level]}
        results.append(measure_level(level, faces, {"ours": ours, **rivals}))
    print_table(results)
    seconds = float(np.median([row.seconds for result in results for row in result.faces]))
    print(f"{len(faces)} faces of {given.split}; {seconds:.2f} s of one core a face: {2 / seconds:.1f} faces/s on two")
    if given.json:
        given.json.write_text(json.dumps([asdict(result) for result in results], indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
