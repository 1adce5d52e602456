"""Random numbers for the diffusion networks: one generator per image.

An image's numbers depend on its own seed alone, so a result does not depend on which images share its batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor


class NoiseSource(Protocol):
    """Gives standard normal numbers of the shape (N, …) asked for, fp32, on the CPU."""

    def __call__(self, shape: tuple[int, ...]) -> Tensor:
        """Draws the next numbers; every call goes on where the last one stopped."""
        ...


class SeededNoise:
    """Draws every image's numbers from its own CPU generator: the same on every device and in every batch."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, shape: tuple[int, ...]) -> Tensor:
        if shape[0] != len(self.generators):
            raise ValueError(f"expected a batch of {len(self.generators)}, one per seed, got {shape[0]}")
        return torch.stack([torch.randn(shape[1:], generator=generator) for generator in self.generators])


class RecordedNoise:
    """Gives back recorded numbers in order, to repeat a run of another implementation."""

    def __init__(self, draws: Iterable[Tensor]) -> None:
        self.draws = iter(draws)

    def __call__(self, shape: tuple[int, ...]) -> Tensor:
        draw = next(self.draws, None)
        if draw is None or tuple(draw.shape) != tuple(shape):
            raise ValueError(
                f"expected recorded noise of shape {tuple(shape)}, got {draw if draw is None else draw.shape}"
            )
        return draw
