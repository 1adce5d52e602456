"""The small judge of identity against a correlation of tiny crops and against a recognition network.

Honest restorations (the compact recipe's result, and the truth itself) against faces with planted features of
somebody else, on people it never saw. `choose` sets threshold and trust; `val` is measured once, at the end.

    python tests/benchmarks/bench_identity.py --split choose
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from bench_compact import JUDGE, SHARED, Graph
from numpy.typing import NDArray

from tasks.archive.degradation import MEDIUM, MILD, SEVERE, VERY_SEVERE, Degradation, sample_degradation
from tasks.faces.judges import onnx_judge
from tasks.faces.small_judge import THRESHOLDS, TRUSTED, CompactJudge, threshold_at
from tasks.training.data import Face, ita, load_faces, to_float
from tasks.training.identity_measure import HONEST, REGIONS, Likeness, Trial, area, small_grey, trials

WEIGHTS = Path(__file__).parents[2] / "tasks" / "models" / "weights" / "identity.safetensors"
LEVELS: dict[str, Callable[[int], Degradation]] = {
    "mild": lambda seed: MILD,
    "medium": lambda seed: MEDIUM,
    "severe": lambda seed: SEVERE,
    "very_severe": lambda seed: VERY_SEVERE,
    "mixed": lambda seed: sample_degradation(seed, ageing=0.2),
    "medium and faded": lambda seed: MEDIUM.model_copy(update={"fading": 0.6}),
    "medium and hazy": lambda seed: MEDIUM.model_copy(update={"haze": 0.6}),
}
KINDS = (*REGIONS, "other")
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Judged:
    """One trial as the small judge saw it: trust in the input, and the least alike part of every candidate."""

    trial: Trial
    trust: float
    values: Floats


def judged(judge: CompactJudge, trial: Trial) -> Judged:
    """Every candidate by itself, as in the stage."""
    given = judge.look(trial.given[None])
    values = [judge.least_alike(given, judge.look(crop[None]))[1] for crop in trial.candidates]
    return Judged(trial, float(given.trust[0]), np.array(values))


def of_kind(found: list[Judged], kind: str) -> Floats:
    """Values of all candidates with that planted; `honest` are those without anything."""
    pick = (lambda t: t.honest) if kind == "honest" else (lambda t: np.array([n.endswith(f".{kind}") for n in t.names]))
    return np.concatenate([np.zeros(0), *(one.values[pick(one.trial)] for one in found)])


def recognised(path: Path) -> Likeness:
    """A recognition network as a judge."""
    judge = onnx_judge(path)

    def likeness(one: np.ndarray, others: np.ndarray) -> Floats:
        vectors = judge(np.stack([one, *others]))
        return np.asarray(vectors[1:] @ vectors[0], np.float64)

    return likeness


def by(likeness: Likeness, found: list[Trial]) -> list[Judged]:
    """The same trials under another judge."""
    return [Judged(trial, 1.0, likeness(trial.given, trial.candidates)) for trial in found]


def areas(found: list[Judged]) -> str:
    """Areas under the ROC curve, one kind after the other."""
    honest = of_kind(found, "honest")
    return " | ".join(f"{area(honest, of_kind(found, kind)):.3f}" for kind in KINDS)


def decisions(found: list[Judged]) -> dict[str, float]:
    """What the shipped thresholds and trust make of the trials: shares."""
    sure = [one for one in found if one.trust >= TRUSTED[0]]
    shares = {"undecidable": 1 - len(sure) / len(found)}
    if not sure:
        return shares
    over = [Judged(one.trial, one.trust, one.values - threshold_at(one.trust)) for one in sure]
    for kind in HONEST:
        rejected = [one.values[one.trial.names.index(kind)] < 0 for one in over]
        shares[f"falsely rejected: {kind}"] = float(np.mean(rejected))
    return shares | {f"caught: {kind}": float((of_kind(over, kind) < 0).mean()) for kind in KINDS}


def print_areas(name: str, tables: dict[str, list[Judged]]) -> None:
    """Markdown."""
    print(f"\n{name}: area under the ROC curve\n\n| input | {' | '.join(KINDS)} |\n|---|{'---|' * len(KINDS)}")
    for level, found in tables.items():
        print(f"| {level} | {areas(found)} |")
    print(f"| all | {areas([one for found in tables.values() for one in found])} |")


def print_decisions(tables: dict[str, list[Judged]]) -> None:
    """Markdown: what the stage would say, level by level."""
    columns = ["undecidable", *(f"falsely rejected: {kind}" for kind in HONEST), *(f"caught: {kind}" for kind in KINDS)]
    print(f"\nDecisions, with the cosines {THRESHOLDS} at trust {TRUSTED}\n\n| input | {' | '.join(columns)} |")
    print(f"|---|{'---|' * len(columns)}")
    for level, found in tables.items():
        shares = decisions(found)
        cells = [f"{100 * shares[c]:.1f} %" if c in shares else "–" for c in columns]
        print(f"| {level} | {' | '.join(cells)} |")


def thirds(found: list[Judged], faces: list[Face]) -> dict[str, list[Judged]]:
    """The same by skin tone of the truth (ITA), a third of the people each."""
    tones = {face.name: ita(to_float(face.aligned)) for face in faces}
    order = sorted(tones, key=lambda name: tones[name])
    groups = dict(zip(("darkest third", "middle third", "lightest third"), np.array_split(order, 3), strict=True))
    return {name: [one for one in found if one.trial.face in group] for name, group in groups.items()}


def milliseconds(judge: CompactJudge) -> float:
    """CPU time of one look at one crop."""
    crop = np.full((1, 112, 112, 3), 0.5, np.float32)
    judge.look(crop)
    began = time.process_time()
    for _ in range(50):
        judge.look(crop)
    return (time.process_time() - began) / 50 * 1000


def main() -> None:
    """Measures and prints Markdown; `--json` keeps trust and values of every candidate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "portraits", help="folder of aligned faces")
    parser.add_argument("--split", choices=["choose", "val"], default="choose")
    parser.add_argument("--seeds", type=int, default=2, help="how often each face is degraded")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--json", type=Path, help="every number")
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    cv2.setNumThreads(1)
    faces, graph, judge = load_faces(args.data, args.split), Graph(None, None), CompactJudge(args.weights, "cpu")
    found = {
        level: [trial for seed in range(args.seeds) for trial in trials(faces, draw, graph, seed)]
        for level, draw in LEVELS.items()
    }
    tables = {level: [judged(judge, trial) for trial in each] for level, each in found.items()}
    print_areas("small judge", tables)
    print_areas("correlation of 16×16 grey crops", {k: by(small_grey, each) for k, each in found.items()})
    if JUDGE.exists():
        print_areas(JUDGE.stem, {k: by(recognised(JUDGE), each) for k, each in found.items()})
    print_decisions(tables)
    print_decisions(thirds([one for each in tables.values() for one in each], faces))
    print(f"\n{milliseconds(judge):.1f} ms of one core a look; two looks a face")
    if args.json:
        rows = {k: [[o.trust, o.trial.names, o.values.tolist()] for o in each] for k, each in tables.items()}
        args.json.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
