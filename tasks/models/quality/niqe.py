"""NIQE, a no-reference quality score: how far a picture's local statistics lie from those of pristine photographs.

Mittal, Soundararajan, Bovik, "Making a 'Completely Blind' Image Quality Analyzer" (IEEE SPL 2013). The luma, the
rounding and the resizing are those of pyiqa's `niqe` (the challenge's), so scores compare with published ones;
BasicSR's differ by a few tenths. `fit` takes the pristine statistics from pictures of one's own. The module knows
nothing of files: pristine parameters come as tensors.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, max_pool2d, pad

BLOCK = 96
LUMA = (0.299, 0.587, 0.114)
SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))
FEATURES = 36
SHARP = 0.75
"""Blocks as sharp as this share of their picture's sharpest are learnt from, as in the paper."""
EPSILON = torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class Pristine:
    """A Gaussian over features of pristine photographs: mean (36,) and covariance (36, 36), float64."""

    mean: Tensor
    covariance: Tensor


def niqe(rgb: Tensor, pristine: Pristine) -> Tensor:
    """Scores RGB pictures (N, 3, H, W) in [0, 1], both sides at least 192: (N,) float64, lower is better.

    Raises ValueError for pictures too small to hold the four blocks of 96 pixels that a covariance needs.
    """
    rows, columns = rgb.shape[-2] // BLOCK, rgb.shape[-1] // BLOCK
    if min(rows, columns) < 2:
        raise ValueError(f"NIQE needs both sides at least {2 * BLOCK} px, got {tuple(rgb.shape[-2:])}: score a crop")
    luma = _whole_blocks(_luma(rgb))
    return _distances(_features(luma, *_local(luma), torch.ones(rows * columns, dtype=torch.bool)), pristine)


def fit(pictures: Iterable[tuple[Tensor, Tensor]]) -> Pristine:
    """The Gaussian over the sharp blocks of pristine pictures.

    Each is RGB (3, H, W) in [0, 1] with where it is real (H, W), 1 or 0: blocks that are not real throughout are left
    out. Sharpness is the mean local deviation. Raises ValueError where all of them hold fewer blocks than features.
    """
    chosen = torch.cat([torch.zeros(0, FEATURES, dtype=torch.float64), *(_sharp(*picture) for picture in pictures)])
    complete = chosen[~chosen.isnan().any(dim=1)]
    if len(complete) <= FEATURES:
        raise ValueError(
            f"NIQE's statistics need more than {FEATURES} sharp blocks of {BLOCK}×{BLOCK} real pixels; these pictures "
            f"hold {len(complete)}: give more of them, or larger ones"
        )
    return Pristine(complete.mean(dim=0), torch.cov(complete.T))


def _sharp(rgb: Tensor, real: Tensor) -> Tensor:
    """Features (blocks, 36) of a picture's sharp blocks."""
    luma = _whole_blocks(_luma(rgb[None]))
    mean, deviation = _local(luma)
    unreal = max_pool2d(1 - _whole_blocks(real[None, None]).double(), BLOCK).flatten()
    sharpness = avg_pool2d(deviation, BLOCK).flatten() * (unreal == 0)
    return _features(luma, mean, deviation, sharpness > SHARP * sharpness.max())[0]


def _whole_blocks(x: Tensor) -> Tensor:
    rows, columns = x.shape[-2] // BLOCK, x.shape[-1] // BLOCK
    return x[..., : rows * BLOCK, : columns * BLOCK]


def _luma(rgb: Tensor) -> Tensor:
    """Whole numbers 0–255, (N, 1, H, W) float64; summed in float32, because .5 must round as in the original."""
    weights = torch.tensor(LUMA, device=rgb.device).view(1, 3, 1, 1)
    return ((rgb.float() * weights).sum(dim=1, keepdim=True) * 255).round().double()


def _features(luma: Tensor, mean: Tensor, deviation: Tensor, chosen: Tensor) -> Tensor:
    """36 features of each chosen block of 96 pixels, (N, blocks, 36): 18 at full size and 18 at half."""
    fine = _block_features(_blocks(_normalise(luma, mean, deviation), BLOCK)[:, chosen])
    half = _halve(luma)
    coarse = _block_features(_blocks(_normalise(half, *_local(half)), BLOCK // 2)[:, chosen])
    return torch.cat([fine, coarse], dim=-1)


def _blocks(x: Tensor, side: int) -> Tensor:
    """Cut (N, 1, H, W) into (N, blocks, side, side)."""
    return x[:, 0].unfold(1, side, side).unfold(2, side, side).flatten(1, 2)


def _normalise(luma: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Each pixel minus its local mean, over its local deviation plus one."""
    return (luma - mean) / (deviation + 1)


def _local(luma: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation around each pixel."""
    position = torch.arange(-3, 4, dtype=luma.dtype, device=luma.device)
    profile = torch.exp(-(position**2) / (2 * (7 / 6) ** 2))
    window = profile[:, None] * profile
    window = (window / window.sum()).float().double().view(1, 1, 7, 7)  # pyiqa keeps it in float32: 0.004 of a score
    mean = conv2d(pad(luma, (3, 3, 3, 3), mode="replicate"), window)
    square = conv2d(pad(luma**2, (3, 3, 3, 3), mode="replicate"), window)
    return mean, ((square - mean**2).abs() + EPSILON).sqrt()


def _halve(luma: Tensor) -> Tensor:
    """Half the size by the antialiased cubic filter of MATLAB's imresize (edges mirrored, float32 as in pyiqa)."""
    distance = (torch.arange(8, dtype=torch.float32, device=luma.device) - 3.5).abs() / 2
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    taps = torch.where(distance <= 1, near, far)
    taps = taps / taps.sum()
    mirrored = _mirror(luma.float() / 255, 3)
    vertical = conv2d(mirrored, taps.view(1, 1, 8, 1), stride=(2, 1))
    return (conv2d(vertical, taps.view(1, 1, 1, 8), stride=(1, 2)) * 255).double()


def _mirror(x: Tensor, border: int) -> Tensor:
    """Reflects about the picture's edge, so that the outermost pixel comes twice."""
    x = torch.cat([x[..., :border].flip(-1), x, x[..., -border:].flip(-1)], dim=-1)
    return torch.cat([x[..., :border, :].flip(-2), x, x[..., -border:, :].flip(-2)], dim=-2)


def _block_features(pictures: Tensor) -> Tensor:
    """18 features of each block, (N, blocks, side, side) → (N, blocks, 18)."""
    blocks = pictures.flatten(0, 1)
    shape, left, right = _fit_asymmetric_gaussian(blocks)
    features = [shape, (left + right) / 2]
    for shift in SHIFTS:
        products = blocks * torch.roll(blocks, shift, dims=(1, 2))
        shape, left, right = _fit_asymmetric_gaussian(products)
        mean = (right - left) * (torch.lgamma(2 / shape) - torch.lgamma(1 / shape)).exp()
        features += [shape, mean, left, right]
    return torch.stack(features, dim=-1).view(*pictures.shape[:2], 18)


def _fit_asymmetric_gaussian(blocks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shape and left and right scale of each block (B, h, w), by moment matching on a grid of shapes."""
    shapes = torch.arange(0.2, 10 + 0.001, 0.001, device=blocks.device).to(blocks.dtype)
    ratios = (2 * torch.lgamma(2 / shapes) - torch.lgamma(1 / shapes) - torch.lgamma(3 / shapes)).exp()
    values = blocks.flatten(1)
    left = _root_mean_square(values.clamp(max=0))
    right = _root_mean_square(values.clamp(min=0))
    balance = left / right
    ratio = values.abs().mean(dim=1) ** 2 / (values**2).mean(dim=1)
    ratio = ratio * (balance**3 + 1) * (balance + 1) / (balance**2 + 1) ** 2
    shape = shapes[_nearest(ratios, ratio)]
    spread = (torch.lgamma(1 / shape) - torch.lgamma(3 / shape)).exp().sqrt()
    return shape, left * spread, right * spread


def _root_mean_square(values: Tensor) -> Tensor:
    """Over the non-zero values of each row; NaN where a row has none (such blocks are left out later)."""
    return ((values**2).sum(dim=1) / (values != 0).sum(dim=1)).sqrt()


def _nearest(ascending: Tensor, wanted: Tensor) -> Tensor:
    """Index of the entry nearest to each wanted value."""
    after = torch.searchsorted(ascending, wanted).clamp(1, len(ascending) - 1)
    closer_before = wanted - ascending[after - 1] <= ascending[after] - wanted
    return after - closer_before.long()


def _distances(features: Tensor, pristine: Pristine) -> Tensor:
    """Distance between the Gaussian fitted to each picture's blocks and the pristine one."""
    expected_mean = pristine.mean.to(features).flatten()
    expected_covariance = pristine.covariance.to(features)
    scores = []
    for blocks in features:
        complete = blocks[~blocks.isnan().any(dim=1)]
        difference = expected_mean - blocks.nanmean(dim=0)
        pooled = (expected_covariance + torch.cov(complete.T)) / 2
        scores.append((difference @ torch.linalg.pinv(pooled) @ difference).sqrt())
    return torch.stack(scores)
