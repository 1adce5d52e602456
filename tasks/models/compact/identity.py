"""The small identity network of the compact recipe: do two aligned pictures show the same facial features?

It describes five parts of a face one by one, so that a mouth drawn anew counts as much as a face that is swapped.
Tensors only; nothing of recipes, stages or files.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

PARTS = ("eye_left", "eye_right", "nose", "mouth", "whole")
WINDOWS = ((4, 8, 2, 7), (4, 8, 7, 12), (6, 10, 5, 9), (10, 14, 4, 10))
"""Rows and columns (from, to) of the 14×14 map in which a part lies; `whole` is the map itself, halved."""

SCALES = 4
SEEN = 1 + 3 * SCALES


class IdentityNet(nn.Module):
    """Maps recognition crops (N, 3, 112, 112), RGB in [0, 1], to unit vectors (N, 5 × size) and trust (N) in [0, 1].

    The vector holds one piece for each of `PARTS`, all of the same length: the cosine of two vectors is the mean of
    the parts' cosines (`agreement`). Only luma, freed of its local mean and spread, is looked at, and only inside an
    oval: neither colour nor light nor backdrop tells who somebody is. Trust is how well the crop would correlate with
    a clean picture of the same face (`shown`), told from its sharpness and noise alone, not from who it is.
    """

    def __init__(self, widths: Sequence[int] = (32, 64), size: int = 32) -> None:
        super().__init__()
        fine, coarse = widths
        self.size = size
        self.fine = nn.Sequential(_conv(16, fine), _conv(fine, fine), _conv(fine, fine))
        self.coarse = nn.Sequential(_conv(fine, coarse, 2), *(_conv(coarse, coarse) for _ in range(3)))
        cells = [(bottom - top) * (right - left) for top, bottom, left, right in WINDOWS]
        self.narrow = nn.Conv2d(coarse, coarse // 4, 1)
        lengths = [*(coarse * n for n in cells), coarse // 4 * 49]
        self.vectors = nn.ModuleList(nn.Linear(length, size) for length in lengths)
        self.trusted = nn.Sequential(
            *(nn.BatchNorm1d(SEEN, affine=False), nn.Linear(SEEN, 32), nn.SiLU()),
            *(nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 1), nn.Sigmoid()),
        )
        self.register_buffer("oval", _oval(), persistent=False)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        weights = torch.tensor([0.299, 0.587, 0.114], device=crops.device)
        luma = (crops * weights[None, :, None, None]).sum(dim=1, keepdim=True)
        return self.describe(luma).flatten(1) / len(PARTS) ** 0.5, self.trust(luma)

    def trust(self, luma: Tensor) -> Tensor:
        """How much of the face luma (N, 1, 112, 112) shows, (N) in [0, 1]."""
        with torch.autocast(luma.device.type, enabled=False):
            told: Tensor = self.trusted(_statistics(luma.float()))
        return told.squeeze(1)

    def shown(self, luma: Tensor, clean: Tensor) -> Tensor:
        """What trust should be: correlation (N) with the clean luma, at half the size and inside the oval."""
        one, other = (functional.avg_pool2d(_settled(x) * self.get_buffer("oval"), 2).flatten(1) for x in (luma, clean))
        return functional.cosine_similarity(one, other, dim=1).clamp(min=0)

    def describe(self, luma: Tensor) -> Tensor:
        """One unit vector for each part (N, 5, size) of luma (N, 1, 112, 112) in [0, 1]."""
        seen = functional.pixel_unshuffle(_settled(luma) * self.get_buffer("oval"), 4)
        found = self.coarse(self.fine(seen))
        pieces = [found[:, :, top:bottom, left:right].flatten(1) for top, bottom, left, right in WINDOWS]
        pieces.append(functional.avg_pool2d(self.narrow(found), 2).flatten(1))
        vectors = torch.stack([layer(piece) for layer, piece in zip(self.vectors, pieces, strict=True)], dim=1)
        return functional.normalize(vectors.float(), dim=2)

    def agreement(self, one: Tensor, other: Tensor) -> Tensor:
        """The parts' cosines (N, 5) of vectors (N, 5 × size) that `forward` gave."""
        together = (one * other).view(-1, len(PARTS), self.size)
        return together.sum(dim=2) * len(PARTS)


@torch.no_grad()
def _statistics(luma: Tensor) -> Tensor:
    """Spread, and three norms of the detail at four scales in units of it, (N, 13): they tell noise, edges and blur."""
    plane = luma[:, :, 8:104, 16:96]
    spread = plane.std(dim=(1, 2, 3), keepdim=True) + 1e-3
    plane, seen = plane / spread, [spread.log().flatten(1)]
    for _ in range(SCALES):
        coarse = functional.avg_pool2d(plane, 2)
        smooth = functional.interpolate(coarse, size=plane.shape[2:], mode="bilinear", align_corners=False)
        detail = (plane - smooth).abs() + 1e-3
        seen += [norm.mean(dim=(1, 2, 3))[:, None].log() for norm in (detail, detail.sqrt(), detail.square())]
        plane = coarse
    return torch.cat(seen, dim=1)


def _settled(luma: Tensor) -> Tensor:
    """Luma less its mean nearby, in units of its spread nearby."""
    mean = _nearby(luma)
    spread = (_nearby(luma.square()) - mean.square()).clamp(min=0).sqrt()
    return (luma - mean) / (spread + 0.03)


def _nearby(plane: Tensor) -> Tensor:
    coarse = functional.avg_pool2d(plane, 8)
    smooth = functional.avg_pool2d(functional.pad(coarse, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
    return functional.interpolate(smooth, scale_factor=8, mode="bilinear", align_corners=False)


def _oval() -> Tensor:
    """1 on the face, 0 in the corners, where hair and backdrop are; (1, 1, 112, 112)."""
    ticks = torch.arange(112) + 0.5
    across, down = (ticks - 56) / 50, (ticks - 62) / 60
    distance = (across[None, :].square() + down[:, None].square()).sqrt()
    return ((1.1 - distance) / 0.2).clamp(0, 1)[None, None]


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )
