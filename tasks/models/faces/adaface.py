"""AdaFace's improved residual networks: an aligned face in, a unit vector of identity out.

Kim et al., "AdaFace: Quality Adaptive Margin for Face Recognition" (CVPR 2022), repository
mk-minchul/AdaFace. Parameter names are those of its checkpoints without the leading `model.`. The module
knows nothing of alignment or of thresholds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn

Depth = Literal["ir_18", "ir_50", "ir_101"]

SIDE = 112
FEATURES = 512
UNITS: dict[Depth, tuple[int, int, int, int]] = {
    "ir_18": (2, 2, 2, 2),
    "ir_50": (3, 4, 14, 3),
    "ir_101": (3, 13, 30, 3),
}
WIDTHS = (64, 128, 256, 512)


class Unit(nn.Module):
    """Two convolutions beside a shortcut that follows the stride."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.shortcut_layer: nn.Module | None = None
        if inputs != outputs:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        subsampled = x[..., :: self.stride, :: self.stride]
        shortcut = subsampled if self.shortcut_layer is None else self.shortcut_layer(x)
        residual: Tensor = self.res_layer(x)
        return residual + shortcut


class AdaFace(nn.Module):
    """Maps BGR faces (N, 3, 112, 112) in [-1, 1] to unit features (N, 512) and their former norms (N, 1).

    The norm is high for faces of good quality. `ir_101` is the net that papers call IR-100.
    """

    def __init__(self, depth: Depth = "ir_50") -> None:
        super().__init__()
        self.input_layer = nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64))
        self.body = nn.Sequential(*_units(depth))
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(WIDTHS[-1]),
            nn.Dropout(0.4),
            nn.Flatten(),
            nn.Linear(WIDTHS[-1] * (SIDE // 16) ** 2, FEATURES),
            nn.BatchNorm1d(FEATURES, affine=False),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features: Tensor = self.output_layer(self.body(self.input_layer(x)))
        norm = features.norm(dim=1, keepdim=True)
        return features / norm, norm


def network_weights(checkpoint: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network's part of a released checkpoint: under `model.`, beside the training head, which is left out."""
    return {key.removeprefix("model."): value for key, value in checkpoint.items() if not key.startswith("head.")}


def embed(net: nn.Module, rgb: Tensor) -> tuple[Tensor, Tensor]:
    """Features and norms of aligned RGB faces (N, 3, 112, 112) in [0, 1].

    The network wants BGR; RGB would lower every similarity without an error.
    """
    features, norms = net(rgb.flip(1) * 2 - 1)
    return features, norms


def _units(depth: Depth) -> list[Unit]:
    units: list[Unit] = []
    inputs = WIDTHS[0]
    for outputs, count in zip(WIDTHS, UNITS[depth], strict=True):
        units += [Unit(inputs, outputs, stride=2)]
        units += [Unit(outputs, outputs, stride=1) for _ in range(count - 1)]
        inputs = outputs
    return units
