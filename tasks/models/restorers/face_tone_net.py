"""FaceToneNet, the skin-tone UNet of MPSR: a pix2pix generator whose output is averaged with its input.

Repository nathanlau1016/ntire2025_miportraitsr, after Isola et al., "Image-to-Image Translation with
Conditional Adversarial Networks" (CVPR 2017). Parameter names are those of the released checkpoint. The
module knows nothing of files, faces or devices.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

MAX_WIDENING = 8


class SkipBlock(nn.Module):
    """One level of the UNet: halve, run the deeper levels, double, and keep the input beside the result."""

    def __init__(self, outer: int, inner: int, deeper: SkipBlock | None, *, outermost: bool = False) -> None:
        super().__init__()
        self.outermost = outermost
        down: list[nn.Module] = [nn.Conv2d(outer, inner, kernel_size=4, stride=2, padding=1)]
        up: list[nn.Module] = [nn.ReLU(), _double(inner if deeper is None else 2 * inner, outer)]
        if outermost:
            up.append(nn.Tanh())
        else:
            down.insert(0, nn.LeakyReLU(0.2))
            up.append(nn.InstanceNorm2d(outer))
            if deeper is not None:
                down.append(nn.InstanceNorm2d(inner))
        middle = [] if deeper is None else [deeper]
        self.model = nn.Sequential(*down, *middle, *up)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.model(x)
        return result if self.outermost else torch.cat([x, result], dim=1)


class FaceToneNet(nn.Module):
    """Maps RGB (N, 3, H, W) in [-1, 1] to RGB in [-1, 1]; both sides a multiple of 2**depth.

    Instance statistics belong to the whole picture, so tiles differ from the whole; a batch does not matter.
    The released net has depth 8 and width 64 (39,153,411 parameters).
    """

    def __init__(self, depth: int = 8, width: int = 64) -> None:
        super().__init__()
        channels = [width * min(2**level, MAX_WIDENING) for level in range(depth)]
        block: SkipBlock | None = None
        for outer, inner in reversed(list(pairwise(channels))):
            block = SkipBlock(outer, inner, block)
        self.model = SkipBlock(3, width, block, outermost=True)

    def forward(self, x: Tensor) -> Tensor:
        toned: Tensor = self.model(x)
        return (toned + x) / 2


def tone(net: nn.Module, rgb: Tensor) -> Tensor:
    """Runs a `FaceToneNet` on RGB (N, 3, H, W) in [0, 1]; the result is clamped to [0, 1]."""
    toned: Tensor = net(rgb * 2 - 1)
    return ((toned + 1) / 2).clamp(0, 1)


def _double(inputs: int, outputs: int) -> nn.Sequential:
    # align_corners=True as trained: without it the result is off by a tenth.
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
        nn.Conv2d(inputs, outputs, kernel_size=3, padding=1),
    )
