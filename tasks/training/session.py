"""One network trained in this process: by `mpsr train` with a bar, by the flow train-compact with a log."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from infra.problems import ForPeople


class TrainingRefused(ForPeople):
    """A network, a setting or a folder of faces that cannot be trained with; nothing was done."""

    exit_code = 2


def train_one(
    name: str, data: Path, output: Path, settings: dict[str, Any], tell: Callable[[int, int, float], None] | None = None
) -> dict[str, Any]:
    """Trains (or goes on training) a network and measures it against its own absence on the validation faces.

    `niqe` is no network: its pristine statistics are fitted to the faces in one go, and there are no settings.
    `tell` hears (step, steps, loss) after every step.
    Returns where the weights are, their sha256, one line of figures for every row of `tasks.train_measure`, and, for
    networks that make pictures, a strip of validation faces (given, made, truth) to look at.
    Raises TrainingRefused for an unknown network, for settings that cannot be, and where the folder holds no faces.
    """
    if name == "niqe":
        return _fit_niqe(data, output, settings)
    from tasks.models.compact.table import load_compact
    from tasks.training.loop import TrainSettings, faces_of, train
    from tasks.training.measure import measure
    from tasks.training.networks import NETWORKS
    from tasks.training.strip import write_strip

    if name not in NETWORKS:
        raise TrainingRefused(f"no network is called {name!r}; {', '.join(NETWORKS)} and niqe can be trained")
    try:
        chosen = TrainSettings.model_validate({"data": data, "out": output, **settings})
        held_out = ("choose",) if chosen.patience else ()
        faces = [faces_of(chosen, split) for split in (*held_out, "val")][-1]  # what lacks is said before, not after
        result = train(name, chosen, tell)
    except (ValueError, FileNotFoundError) as error:
        raise TrainingRefused(str(error)) from None
    network = load_compact(result.weights)
    figures = {row: _in_words(values) for row, values in measure(name, network, faces).items()}
    strip = write_strip(name, network, faces, output / f"{name}.png")
    return {"weights": str(result.weights), "sha256": result.sha256, "steps": result.steps, **figures} | (
        {"pictures": str(strip)} if strip else {}
    )


def _fit_niqe(data: Path, output: Path, settings: dict[str, Any]) -> dict[str, Any]:
    from tasks.training.data import load_faces
    from tasks.training.niqe import fit_niqe, measure_niqe

    if settings:
        raise TrainingRefused(f"niqe is fitted in one go and has no settings; leave out {', '.join(settings)}")
    try:
        fitted = fit_niqe(data, output)
        figures = measure_niqe(fitted.weights, load_faces(data, "val"))
    except (FileNotFoundError, ValueError) as error:
        raise TrainingRefused(str(error)) from None
    digest = hashlib.sha256(fitted.weights.read_bytes()).hexdigest()
    rows = {row: _in_words(values) for row, values in figures.items()}
    return {"weights": str(fitted.weights), "sha256": digest, "faces": fitted.faces, **rows}


def _in_words(values: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in values.items())
