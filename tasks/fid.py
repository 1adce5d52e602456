"""FID as the challenge computes it: the Fréchet distance between Gaussians over Inception features.

Heusel et al., "GANs Trained by a Two Time-Scale Update Rule" (NeurIPS 2017); the network is that of
mseitzer/pytorch-fid, the statistics of the pristine faces come from a file (FFHQ at 512 pixels). Features are taken
face by face (`tasks.metrics.Meter.features`); the number is made of all of them. The module knows nothing of where
features are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FEATURES = 2048


@dataclass(frozen=True)
class Gaussian:
    """Mean (D,) and covariance (D, D) of features, float64."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]


def gaussian(features: NDArray[np.floating]) -> Gaussian:
    """Of features (N, D), N at least 2. Raises ValueError for fewer."""
    raise NotImplementedError


def load_gaussian(path: Path) -> Gaussian:
    """A statistics file with `mean` and `cov`, nothing in it run. Raises infra.weights.WeightsError."""
    raise NotImplementedError


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|μ₁ − μ₂|² + Tr(C₁ + C₂ − 2 √(C₁C₂)). Raises ValueError where the sizes differ."""
    raise NotImplementedError


def fid(features: NDArray[np.floating], statistics: Path) -> float:
    """FID of features (N, 2048) to a statistics file."""
    raise NotImplementedError
