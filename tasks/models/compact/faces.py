"""The small landmark network: five points and a face/no-face logit from a detector's rough box.

Knows tensors and boxes; knows nothing of files or detectors.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

CROP_MARGIN = 1.5
BOX_PER_EYE_DISTANCE = 2.45
BOX_RISE = 0.15
MIRRORED = (1, 0, 2, 4, 3)
"""Which point each becomes in the mirror."""
Points: TypeAlias = NDArray[np.float64]


def landmark_crop(box: tuple[float, float, float, float]) -> tuple[float, float, float]:
    """The square (x, y, side) that `LandmarkNet` looks at, in pixels, for a box (x, y, width, height).

    It shares the box's centre; its side is 1.5 × the box's longer side. It may leave the picture: fill with
    the edge pixels. Resize it to 64×64 with an area-like filter.
    """
    x, y, width, height = box
    side = CROP_MARGIN * max(width, height)
    return x + (width - side) / 2, y + (height - side) / 2, side


def box_of_points(points: Points) -> tuple[float, float, float, float]:
    """The box (x, y, width, height) that the LBP cascade would draw around five points (5, 2)."""
    eyes, mouth = points[:2].mean(axis=0), points[3:].mean(axis=0)
    scale = max(float(np.hypot(*(points[1] - points[0]))), 0.95 * float(np.hypot(*(mouth - eyes))))
    side = BOX_PER_EYE_DISTANCE * scale
    x, y = (eyes + mouth) / 2 - side / 2
    return float(x), float(y) - BOX_RISE * scale, side, side


class LandmarkNet(nn.Module):
    """Maps RGB crops (N, 3, 64, 64) in [0, 1] to points (N, 5, 2) and a face logit (N,).

    Points are fractions of the crop's side (x, y): eye at image-left, eye at image-right, nose, mouth corner
    at image-left, mouth corner at image-right. Each is the mean of a 16×16 heat map (soft-argmax, as in DSNT,
    Nibali et al. 2018). A logit above 0 means that a face is more likely than not.
    """

    def __init__(self, width: int = 24, side: int = 64) -> None:
        super().__init__()
        self.side = side
        self.fine = nn.Sequential(_conv(3, width, 2), _conv(width, width), _conv(width, 2 * width, 2))
        self.fine_more = _conv(2 * width, 2 * width)
        self.middle = nn.Sequential(_conv(2 * width, 4 * width, 2), _conv(4 * width, 4 * width))
        self.coarse = nn.Sequential(_conv(4 * width, 4 * width, 2), _conv(4 * width, 4 * width))
        self.coarse_map = nn.Linear(4 * width * (side // 16) ** 2, 4 * width)
        self.merge = nn.Sequential(_conv(8 * width, 2 * width), nn.Conv2d(2 * width, 2 * width, 1))
        self.heat = nn.Sequential(_conv(4 * width, 2 * width), nn.Conv2d(2 * width, 5, 1))
        self.face = nn.Linear(4 * width, 1)
        ticks = (torch.arange(side // 4) + 0.5) / (side // 4)
        self.register_buffer("ticks", ticks, persistent=False)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        mean = crops.mean(dim=(1, 2, 3), keepdim=True)
        spread = crops.std(dim=(1, 2, 3), keepdim=True)
        fine = self.fine_more(self.fine((crops - mean) / (spread + 0.03)))
        middle = self.middle(fine)
        whole = functional.relu(self.coarse_map(self.coarse(middle).flatten(1)))
        spread_out = whole[:, :, None, None].expand(-1, -1, *middle.shape[2:])
        merged = self.merge(torch.cat([middle, spread_out], dim=1))
        merged = functional.interpolate(merged, scale_factor=2, mode="bilinear", align_corners=False)
        heat = self.heat(torch.cat([fine, merged], dim=1)).float()
        return self._expectation(heat), self.face(whole).float().squeeze(1)

    def _expectation(self, heat: Tensor) -> Tensor:
        weights = heat.flatten(2).softmax(dim=2).view_as(heat)
        ticks = self.get_buffer("ticks")
        x = (weights.sum(dim=2) * ticks).sum(dim=2)
        y = (weights.sum(dim=3) * ticks).sum(dim=2)
        return torch.stack([x, y], dim=2)


def both_ways(net: nn.Module, crops: Tensor) -> tuple[Tensor, Tensor]:
    """What a `LandmarkNet` says of crops, averaged with what it says of their mirror images: points and logits."""
    count = len(crops)
    points, logits = net(torch.cat([crops, crops.flip(3)]))
    mirrored = torch.stack([1 - points[count:, :, 0], points[count:, :, 1]], dim=2)[:, list(MIRRORED)]
    return (points[:count] + mirrored) / 2, (logits[:count] + logits[count:]) / 2


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )
