"""The pipeline against a bare loop that calls the same stages with the same batches in one process.

    python tests/benchmarks/bench_pipeline.py [--faces 256] [--runs 3]

Both read and write the same files. The loop keeps everything in memory, uses every core from one process and knows
neither ledger, Prefect nor Ray; what the pipeline takes longer after its start-up is its overhead. The two alternate.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from flows.cli.local import quiet_prefect

RECIPE = "compact"
SETTINGS = {"detector": "none"}


def make_faces(folder: Path, count: int) -> None:
    """Degraded crops of the astronaut's face, every one another file."""
    import cv2
    from skimage.data import astronaut

    from tasks.archive.degradation import degrade, sample_degradation

    crop = cv2.resize(astronaut()[0:256, 96:352], (512, 512), interpolation=cv2.INTER_CUBIC).astype(np.float32) / 255
    folder.mkdir()
    for n in range(count):
        face = degrade(crop, sample_degradation(n), n)
        levels = (face[..., ::-1].clip(0, 1) * 255 + 0.5).astype(np.uint8)
        cv2.imwrite(str(folder / f"{n:04}.png"), levels)


def bare_loop(archive: Path, output: Path) -> float:
    """Seconds that the stages take in one process, files in and files out."""
    import torch

    from flows.session.session import present_weights
    from infra.settings import load_settings
    from infra.weights.store import WeightsStore
    from tasks.recipes.recipe import load_recipe

    torch.set_num_threads(os.cpu_count() or 1)
    recipe, settings = load_recipe(RECIPE, {"detect_align": SETTINGS}), load_settings()
    store, here = WeightsStore(settings.weights_dir), present_weights(load_recipe(RECIPE), settings)
    stages = []
    for stage in recipe.stages:
        names = [n for n in (*stage.weights, *stage.optional_weights) if n in here]
        loaded = stage.cls(stage.settings, {name: store.path(name) for name in names})
        loaded.load("cpu", "float32")
        stages.append((stage, loaded))
    output.mkdir()
    began = time.perf_counter()
    _run_all(stages, sorted(archive.iterdir()), output)
    return time.perf_counter() - began


def _run_all(stages: Sequence[Any], paths: Sequence[Path], output: Path) -> None:
    from tasks.pictures.codec import decode, encode
    from tasks.stage import Batch, Face

    (_, detect), *others = stages
    originals = [path.read_bytes() for path in paths]
    pictures = [decode(data) for data in originals]
    found = [detect.run(picture, Batch([], {})).faces[0] for picture in pictures]
    images = [dict(face.images) for face in found]
    metrics: list[dict[str, float]] = [{} for _ in paths]
    stopped: set[int] = set()
    for stage, loaded in others:
        if stage.scope == "image":
            for n, path in enumerate(paths):
                face = Face(path.stem, 0, detail=found[n].outcome.detail)
                batch = Batch([face], {name: _image(images[n], name)[None] for name in stage.reads})
                pasted = None if n in stopped else loaded.run(pictures[n], batch).picture
                data = encode(pasted, originals[n], {}) if pasted else originals[n]
                (output / path.name).write_bytes(data)
            continue
        wanted = [n for n in range(len(paths)) if n not in stopped and stage.applies_to(metrics[n])]
        for part in _parts(wanted, stage.batch_size):
            stack = {name: np.stack([_image(images[n], name) for n in part]) for name in stage.reads}
            for n, result in zip(part, loaded.run(Batch([Face(str(n), 0) for n in part], stack)), strict=True):
                metrics[n] |= result.outcome.metrics
                images[n] |= result.images | {f"{stage.id}.{name}": image for name, image in result.images.items()}
        if stage.stop_when:
            stopped |= {n for n in range(len(paths)) if stage.stop_when.holds(metrics[n])}


def _image(images: dict[str, Any], name: str) -> Any:
    return images.get(name, images.get(name.rpartition(".")[2], images["aligned"]))


def _parts(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]


def start_prefect() -> float:
    """Seconds until the ephemeral server has run its first, empty flow."""
    from prefect import flow

    @flow(name="nothing")
    def nothing() -> None:
        """Only there to be run."""

    began = time.perf_counter()
    nothing()
    return time.perf_counter() - began


def pipeline(archive: Path, workspace: Path) -> tuple[float, float, dict[str, Any]]:
    """Seconds until the workers stand, seconds of everything after it (report included), the run's own summary."""
    from flows.restore_dataset import restore_dataset

    began = time.perf_counter()
    summary = restore_dataset(source=str(archive), workspace=str(workspace), recipe=RECIPE, aligned=True).model_dump()
    return summary["startup_seconds"], time.perf_counter() - began - summary["startup_seconds"], summary


def main() -> None:
    """Alternates the two and prints a Markdown table of medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", type=int, default=256)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    quiet_prefect()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_faces(root / "archive", given.faces)
        print(f"Prefect's start-up: {start_prefect():.1f} s")
        loops, pipes = [], []
        for n in range(given.runs):
            loops.append(bare_loop(root / "archive", root / f"loop{n}"))
            pipes.append(pipeline(root / "archive", root / f"ws{n}"))
    _print(given.faces, loops, pipes)


def _print(faces: int, loops: list[float], pipes: list[tuple[float, float, dict[str, Any]]]) -> None:
    loop = statistics.median(loops)
    startup, work = (statistics.median(p[k] for p in pipes) for k in (0, 1))
    print(
        f"{os.cpu_count()} cores, Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d}, {len(loops)} runs"
    )
    print("| faces | bare loop s | pipeline s | start-up s | overhead (median of pairs) |")
    print("|---|---|---|---|---|")
    ratios = [work_s / loop_s - 1 for loop_s, (_, work_s, _) in zip(loops, pipes, strict=True)]
    print(f"| {faces} | {loop:.1f} | {work:.1f} | {startup:.1f} | {100 * statistics.median(ratios):+.1f} % |")
    print("each pair: " + ", ".join(f"{100 * ratio:+.1f} %" for ratio in ratios))
    stages = pipes[-1][2]["stages"]
    print("inside workers, s: " + ", ".join(f"{name} {stage['seconds']:.1f}" for name, stage in stages.items()))


if __name__ == "__main__":
    main()
