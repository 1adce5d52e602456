"""ParseNet: which of 19 classes (skin, brows, hair, hat …) each pixel of an aligned face belongs to.

The face parser of facexlib (`parsing_parsenet.pth`, xinntao/facexlib), with its parameter names. The
module knows nothing of files, devices or of what the classes are used for.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count, pairwise, takewhile
from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import interpolate

Scale = Literal["down", "same", "up"]

CLASSES = 19
MAX_WIDTH = 256
MIN_WIDTH = 32


class Norm(nn.Module):
    """Batch normalisation under the name that the checkpoint uses."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(x)
        return normed


class ConvLayer(nn.Module):
    """A 3×3 convolution over a reflected border, doubling or halving the picture where `scale` says so."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        scale: Scale = "same",
        *,
        normed: bool = False,
        active: bool = False,
    ) -> None:
        super().__init__()
        self.doubles = scale == "up"
        stride = 2 if scale == "down" else 1
        self.pad = nn.ReflectionPad2d(1)
        self.conv2d = nn.Conv2d(inputs, outputs, 3, stride, bias=not normed)
        self.norm: nn.Module = Norm(outputs) if normed else nn.Identity()
        self.act: nn.Module = nn.LeakyReLU(0.2) if active else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if self.doubles:
            x = interpolate(x, scale_factor=2, mode="nearest")
        result: Tensor = self.act(self.norm(self.conv2d(self.pad(x))))
        return result


class Residual(nn.Module):
    """Two convolutions beside a shortcut; a halving happens in the second, a doubling in the first."""

    def __init__(self, inputs: int, outputs: int, scale: Scale = "same") -> None:
        super().__init__()
        plain = scale == "same" and inputs == outputs
        self.shortcut_func: nn.Module = nn.Identity() if plain else ConvLayer(inputs, outputs, scale)
        self.conv1 = ConvLayer(inputs, outputs, "up" if scale == "up" else "same", normed=True, active=True)
        self.conv2 = ConvLayer(outputs, outputs, "down" if scale == "down" else "same", normed=True)

    def forward(self, x: Tensor) -> Tensor:
        shortcut: Tensor = self.shortcut_func(x)
        residual: Tensor = self.conv2(self.conv1(x))
        return shortcut + residual


class ParseNet(nn.Module):
    """Maps RGB faces (N, 3, H, W) in [-1, 1] to class logits (N, 19, H, W) and a face (N, 3, H, W)."""

    def __init__(
        self,
        halvings: int = 4,
        width: int = 64,
        depth: int = 10,
        limits: tuple[int, int] = (MIN_WIDTH, MAX_WIDTH),
    ) -> None:
        super().__init__()
        widths = [min(max(width << level, limits[0]), limits[1]) for level in range(halvings + 1)]
        narrower = list(pairwise(widths))
        self.encoder = nn.Sequential(
            ConvLayer(3, width), *(Residual(inputs, outputs, "down") for inputs, outputs in narrower)
        )
        self.body = nn.Sequential(*(Residual(widths[-1], widths[-1]) for _ in range(depth)))
        self.decoder = nn.Sequential(*(Residual(inputs, outputs, "up") for outputs, inputs in reversed(narrower)))
        self.out_img_conv = ConvLayer(widths[0], 3)
        self.out_mask_conv = ConvLayer(widths[0], CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        encoded = self.encoder(x)
        decoded = self.decoder(encoded + self.body(encoded))
        return self.out_mask_conv(decoded), self.out_img_conv(decoded)


def build_parsenet(weights: Mapping[str, Tensor]) -> ParseNet:
    """The network in evaluation mode; its sizes are read off the weights.

    Raises KeyError when they have no encoder, RuntimeError when one is missing, left over or of another shape.
    """
    halvings, depth = (_blocks(weights, part) for part in ("encoder", "body"))
    widths = [len(weights["encoder.0.conv2d.weight"])]
    widths += [len(weights[f"encoder.{level}.conv1.conv2d.weight"]) for level in range(1, halvings + 1)]
    net = ParseNet(halvings, widths[0], depth, (min(widths), max(widths)))
    net.load_state_dict(dict(weights), strict=True)
    return net.eval()


def _blocks(weights: Mapping[str, Tensor], part: str) -> int:
    """How many residual blocks a part has."""
    first = 1 if part == "encoder" else 0
    return len(list(takewhile(lambda at: f"{part}.{at}.conv1.conv2d.weight" in weights, count(first))))


def parse(net: nn.Module, rgb: Tensor) -> Tensor:
    """Class of each pixel (N, H, W), int64, of RGB faces (N, 3, 512, 512) in [0, 1]."""
    logits, _ = net(rgb * 2 - 1)
    classes: Tensor = logits.argmax(dim=1)
    return classes
