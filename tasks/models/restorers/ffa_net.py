"""FFA-Net, the dehazing network: residual groups whose features are weighed by channel and pixel attention.

Qin et al., "FFA-Net: Feature Fusion Attention Network for Single Image Dehazing" (AAAI 2020), repository
zhilin007/FFA-Net. Parameter names are those of the released checkpoints. The module knows nothing of files,
faces or devices.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

INPUT_MEAN = (0.64, 0.60, 0.58)
INPUT_STD = (0.14, 0.15, 0.152)


class ChannelAttention(nn.Module):
    """Weighs each channel by its mean over the whole picture: tiles therefore differ from the whole."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ca = _squeeze(width, max(1, width // 8), width)

    def forward(self, x: Tensor) -> Tensor:
        weights: Tensor = self.ca(x.mean(dim=(2, 3), keepdim=True))
        return x * weights


class PixelAttention(nn.Module):
    """Weighs each pixel by one number computed from its channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pa = _squeeze(width, max(1, width // 8), 1)

    def forward(self, x: Tensor) -> Tensor:
        weights: Tensor = self.pa(x)
        return x * weights


class Block(nn.Module):
    """Two convolutions and both attentions around a skip connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = _conv3(width, width)
        self.conv2 = _conv3(width, width)
        self.calayer = ChannelAttention(width)
        self.palayer = PixelAttention(width)

    def forward(self, x: Tensor) -> Tensor:
        features = self.conv2(torch.relu(self.conv1(x)) + x)
        attended: Tensor = self.palayer(self.calayer(features))
        return attended + x


class Group(nn.Module):
    """A run of blocks closed by a convolution, around a skip connection."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.gp = nn.Sequential(*(Block(width) for _ in range(blocks)), _conv3(width, width))

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.gp(x)
        return features + x


class FFANet(nn.Module):
    """Maps `normalise`d RGB (N, 3, H, W), any size, to dehazed RGB whose range is [0, 1] once clamped.

    The skip connection adds the *normalised* input, and the output is nevertheless plain RGB: do not undo
    the normalisation. The released nets have 3 groups of 19 blocks (4,455,913 parameters).
    """

    def __init__(self, groups: int = 3, blocks: int = 19, width: int = 64) -> None:
        super().__init__()
        self.width = width
        self.pre = nn.Sequential(_conv3(3, width))
        self.groups = [f"g{index + 1}" for index in range(groups)]
        for name in self.groups:
            self.add_module(name, Group(width, blocks))
        self.ca = nn.Sequential(nn.AdaptiveAvgPool2d(1), *_squeeze(width * groups, max(1, width // 16), width * groups))
        self.palayer = PixelAttention(width)
        self.post = nn.Sequential(_conv3(width, width), _conv3(width, 3))

    def forward(self, x: Tensor) -> Tensor:
        features: list[Tensor] = [self.pre(x)]
        for name in self.groups:
            features.append(self.get_submodule(name)(features[-1]))
        stacked = torch.cat(features[1:], dim=1)
        weighed = (stacked * self.ca(stacked)).unflatten(1, (len(self.groups), self.width))
        residual: Tensor = self.post(self.palayer(weighed.sum(dim=1)))
        return residual + x


def normalise(rgb: Tensor) -> Tensor:
    """RGB (N, 3, H, W) in [0, 1] to what the network was trained on."""
    mean = torch.tensor(INPUT_MEAN, device=rgb.device, dtype=rgb.dtype).view(1, 3, 1, 1)
    std = torch.tensor(INPUT_STD, device=rgb.device, dtype=rgb.dtype).view(1, 3, 1, 1)
    return (rgb - mean) / std


def dehaze(net: nn.Module, rgb: Tensor) -> Tensor:
    """Runs an `FFANet` on RGB (N, 3, H, W) in [0, 1]; the result is clamped to [0, 1]."""
    restored: Tensor = net(normalise(rgb))
    return restored.clamp(0, 1)


def _conv3(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)


def _squeeze(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, hidden, kernel_size=1),
        nn.ReLU(),
        nn.Conv2d(hidden, outputs, kernel_size=1),
        nn.Sigmoid(),
    )
