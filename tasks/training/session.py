"""One network trained in this process: by `mpsr train` with a bar, by the flow train-compact with a log."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from infra.problems import ForPeople

if TYPE_CHECKING:
    from tasks.training.measure import Table


class TrainingRefused(ForPeople):
    """A network, a setting or a folder of faces that cannot be trained with; nothing was done."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Trained:
    """A network's weights on disk, and what it gains over its own absence on the validation faces.

    `figures` are rows of `tasks.training.measure`; `pictures` is a strip of validation faces (given, made, truth) to
    look at, for networks that make pictures. A network took `steps`; `niqe` was fitted to `faces`.
    """

    weights: Path
    sha256: str
    figures: Table
    steps: int | None = None
    faces: int | None = None
    pictures: Path | None = None

    def told(self) -> dict[str, JsonValue]:
        """As the command line prints and the flow returns it: one line of figures for every row."""
        told: dict[str, JsonValue] = {"weights": str(self.weights), "sha256": self.sha256}
        told |= {name: count for name, count in (("steps", self.steps), ("faces", self.faces)) if count is not None}
        told |= {row: _in_words(values) for row, values in self.figures.items()}
        return told | ({"pictures": str(self.pictures)} if self.pictures else {})


def _in_words(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in values.items())


def train_one(
    name: str,
    data: Sequence[Path],
    output: Path,
    settings: Mapping[str, JsonValue],
    tell: Callable[[int, int, float], None] | None = None,
) -> Trained:
    """Trains (or goes on training) a network and measures it against its own absence on the validation faces.

    `niqe` is no network: its pristine statistics are fitted to the faces in one go, and there are no settings.
    `data` are folders of faces. `settings` are those of `TrainSettings` but for the folders; `tell` hears (step, steps,
    loss) after every step.
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
        chosen = TrainSettings.model_validate({"data": tuple(data), "out": output, **settings})
        held_out = ("choose",) if chosen.patience else ()
        faces = [faces_of(chosen, split) for split in (*held_out, "val")][-1]  # what lacks is said before, not after
        result = train(name, chosen, tell)
    except (ValueError, FileNotFoundError, NotADirectoryError) as error:
        raise TrainingRefused(str(error)) from None
    network = load_compact(result.weights)
    pictures = write_strip(name, network, faces, output / f"{name}.png")
    figures = measure(name, network, faces)
    return Trained(result.weights, result.sha256, figures, steps=result.steps, pictures=pictures)


def _fit_niqe(data: Sequence[Path], output: Path, settings: Mapping[str, JsonValue]) -> Trained:
    from tasks.training.data import load_faces
    from tasks.training.niqe import fit_niqe, measure_niqe

    if settings:
        raise TrainingRefused(f"niqe is fitted in one go and has no settings; leave out {', '.join(settings)}")
    if len(data) != 1:
        raise TrainingRefused(f"niqe is fitted to one folder of faces; got {len(data)}")
    try:
        fitted = fit_niqe(data[0], output)
        figures = measure_niqe(fitted.weights, load_faces(data[0], "val"))
    except (ValueError, FileNotFoundError, NotADirectoryError) as error:
        raise TrainingRefused(str(error)) from None
    digest = hashlib.sha256(fitted.weights.read_bytes()).hexdigest()
    return Trained(fitted.weights, digest, figures, faces=fitted.faces)
