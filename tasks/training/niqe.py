"""NIQE's pristine statistics from one's own portraits, and how well the score that comes of them follows the truth.

Knows faces, degradations and NIQE; knows no command line and no table of weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tasks.archive import Image
from tasks.models.quality.iqa import niqe_from
from tasks.models.quality.niqe import fit
from tasks.training.data import Face, load_faces, to_float
from tasks.training.measure import Table, measure_scores

NAME = "niqe_portraits"


@dataclass(frozen=True, slots=True)
class Fitted:
    """Where the statistics are, and of how many faces they are."""

    weights: Path
    faces: int


def fit_niqe(data: Path, out: Path) -> Fitted:
    """Fit NIQE on the split `fit` of a folder of aligned faces (see tasks.training.data.load_faces), real pixels alone.

    Writes `niqe_portraits.npz` into `out`: `mu_pris_param` (1, 36) and `cov_pris_param` (36, 36), float64, the names of
    the published file. Raises FileNotFoundError where there are no faces, ValueError where they hold too few blocks.
    """
    faces = load_faces(data, "fit")
    pristine = fit(_pictures(faces))
    out.mkdir(parents=True, exist_ok=True)
    path, partial = out / f"{NAME}.npz", out / f"{NAME}.partial.npz"
    np.savez(partial, mu_pris_param=pristine.mean[None].numpy(), cov_pris_param=pristine.covariance.numpy())
    partial.replace(path)
    return Fitted(path, len(faces))


def measure_niqe(weights: Path, faces: list[Face]) -> Table:
    """Spearman correlation with the true PSNR, and mean scores: over all degradations and within each."""
    network = niqe_from(weights)
    return measure_scores(lambda picture: float(network(_tensor(picture)[None])), faces)


def _pictures(faces: list[Face]) -> Iterator[tuple[Tensor, Tensor]]:
    for face in faces:
        yield _tensor(to_float(face.aligned)), torch.from_numpy(face.valid)


def _tensor(image: Image) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
