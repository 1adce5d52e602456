"""FID as the challenge computes it: the Fréchet distance between Gaussians over Inception features.

Heusel et al., "GANs Trained by a Two Time-Scale Update Rule" (NeurIPS 2017); the network is that of
mseitzer/pytorch-fid, the statistics of the pristine faces come from a file (FFHQ at 512 pixels). Features are taken
face by face (`tasks.measuring.Meter.features`); the number is made of all of them. The module knows nothing of where
features are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

CAP = 3000
EPSILON = 1e-6
IMAGINARY = 1e-3


@dataclass(frozen=True)
class Gaussian:
    """Mean (D,) and covariance (D, D) of features, float64."""

    mean: Matrix
    covariance: Matrix


def gaussian(features: NDArray[np.floating]) -> Gaussian:
    """Of features (N, D), N at least 2. Raises ValueError for fewer."""
    if len(features) < 2:
        raise ValueError(f"a covariance needs at least 2 faces, got {len(features)}")
    return Gaussian(features.mean(axis=0, dtype=np.float64), np.cov(features, rowvar=False))


def load_gaussian(path: Path) -> Gaussian:
    """A statistics file with `mean` and `cov`, nothing in it run. Raises infra.weights_errors.WeightsError."""
    from infra.weights import fitting, load_checkpoint

    expect = "FID statistics (mean, cov)"
    content = load_checkpoint(path, expect=expect)
    with fitting(path, expect=expect):
        mean, covariance = (np.asarray(content[key], dtype=np.float64) for key in ("mean", "cov"))
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
            raise ValueError(f"mean {mean.shape} and cov {covariance.shape} do not belong together")
    return Gaussian(mean, covariance)


def fid_of(features: NDArray[np.floating], reference: Gaussian, cap: int = CAP) -> float:
    """FID of features (N, D), in the order of their files' paths, of which the first `cap` count.

    With fewer faces than features the product of the covariances is singular, and its root lost in rounding; then
    the trace of the root is taken from the N×N matrix that has the same eigenvalues. Raises ValueError for fewer
    than two faces, or where the sizes differ.
    """
    used = features[:cap].astype(np.float64)
    sample = gaussian(used)
    _insist_on_one_size(sample, reference)
    if len(used) > used.shape[1]:
        return frechet_distance(sample, reference)
    centred = (used - sample.mean) / np.sqrt(len(used) - 1)
    values = np.linalg.eigvalsh(centred @ reference.covariance @ centred.T)
    return _distance(sample, reference, float(np.sqrt(values.clip(0)).sum()))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|μ₁ − μ₂|² + Tr(C₁ + C₂ − 2 √(C₁C₂)), with 1e-6 on both diagonals where the product has no root.

    Raises ValueError where the sizes differ, or the root is not real.
    """
    from scipy.linalg import sqrtm

    _insist_on_one_size(a, b)
    root = sqrtm(a.covariance @ b.covariance)
    if not np.isfinite(root).all():
        offset = EPSILON * np.eye(len(a.mean))
        root = sqrtm((a.covariance + offset) @ (b.covariance + offset))
    imaginary = float(np.abs(np.diagonal(root).imag).max())
    if not imaginary <= IMAGINARY:
        raise ValueError(f"the product of the covariances has no real root (imaginary part {imaginary:.3g})")
    return _distance(a, b, float(np.trace(root).real))


def _distance(a: Gaussian, b: Gaussian, trace_of_root: float) -> float:
    apart = a.mean - b.mean
    return float(apart @ apart + np.trace(a.covariance) + np.trace(b.covariance) - 2 * trace_of_root)


def _insist_on_one_size(a: Gaussian, b: Gaussian) -> None:
    if a.covariance.shape != b.covariance.shape:
        raise ValueError(f"expected statistics of one network, got {len(a.mean)} features and {len(b.mean)}")
