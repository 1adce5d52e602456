"""Overlapping windows blended by a Gaussian mask: the way to give a network more than fits in memory.

Two masks exist, because the two released codes disagree by half a pixel. Works on any tensor function; knows no
network.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Mask = Callable[[int, int], NDArray[np.float64]]
VARIANCE = 0.01


def centred_mask(height: int, width: int) -> NDArray[np.float64]:
    """The mask of PiSA-SR: centred on both axes; float64 (height, width)."""
    return np.outer(_bell(height, (height - 1) / 2), _bell(width, (width - 1) / 2))


def diffbir_mask(height: int, width: int) -> NDArray[np.float64]:
    """The mask of DiffBIR: centred across, half a pixel low down the image; float64 (height, width)."""
    return np.outer(_bell(height, height / 2), _bell(width, (width - 1) / 2))


@dataclass(frozen=True)
class Window:
    """A rectangle: rows `top` to `bottom`, columns `left` to `right`, ends excluded."""

    top: int
    bottom: int
    left: int
    right: int

    def crop(self, x: Tensor) -> Tensor:
        """The part of (…, H, W) inside the window, as a view."""
        return x[..., self.top : self.bottom, self.left : self.right]

    def scaled(self, scale: float) -> Window:
        """The same rectangle on a grid `scale` times as fine."""
        return Window(*(round(edge * scale) for edge in (self.top, self.bottom, self.left, self.right)))


def windows(height: int, width: int, size: int, stride: int) -> list[Window]:
    """Square windows in reading order that cover the image; the last of a row or column touches the border.

    A side shorter than `size` gets windows as long as itself. Raises ValueError unless 0 < stride <= size.
    """
    if not 0 < stride <= size:
        raise ValueError(f"expected a tile stride from 1 to the tile size {size}, got {stride}")
    rows, columns = min(size, height), min(size, width)
    return [
        Window(top, top + rows, left, left + columns)
        for top in _starts(height, rows, stride)
        for left in _starts(width, columns, stride)
    ]


@dataclass(frozen=True)
class Tiling:
    """How to cut: windows of `size` at distance `stride` (input pixels), blended by `mask`."""

    size: int
    stride: int
    mask: Mask = diffbir_mask

    def cuts(self, x: Tensor) -> bool:
        """Says whether (N, C, H, W) needs more than one window."""
        return max(x.shape[-2:]) > self.size

    def apply(self, function: Callable[[Tensor, Window], Tensor], x: Tensor, scale: float = 1.0) -> Tensor:
        """Runs `function(part, window)` on every window of `x` (N, C, H, W) and blends what it returns.

        The result has `scale` times the size of `x` and the channels and type of what `function` returns.
        """
        total, weight_sum = None, None
        for window in windows(x.shape[-2], x.shape[-1], self.size, self.stride):
            part = function(window.crop(x), window)
            weights = _mask_tensor(self.mask, part.shape[-2], part.shape[-1], part.device, part.dtype)
            if total is None or weight_sum is None:
                height, width = (round(side * scale) for side in x.shape[-2:])
                total = part.new_zeros(*part.shape[:-2], height, width)
                weight_sum = part.new_zeros(height, width)
            place = window.scaled(scale)
            place.crop(total).add_(part * weights)
            place.crop(weight_sum).add_(weights)
        if total is None or weight_sum is None:
            raise ValueError(f"expected an image with pixels, got shape {tuple(x.shape)}")
        return total / weight_sum


@lru_cache(maxsize=16)
def _mask_tensor(mask: Mask, height: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.tensor(mask(height, width), device=device, dtype=dtype)


def _bell(length: int, centre: float) -> NDArray[np.float64]:
    distance = (np.arange(length, dtype=np.float64) - centre) / length
    return np.exp(-(distance**2) / (2 * VARIANCE)) / math.sqrt(2 * math.pi * VARIANCE)


def _starts(length: int, size: int, stride: int) -> list[int]:
    starts = list(range(0, length - size + 1, stride))
    return starts if starts[-1] == length - size else [*starts, length - size]
