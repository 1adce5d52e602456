"""LPIPS, a learned distance between two pictures: how far apart the features of a network that saw ImageNet lie.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (CVPR 2018), version 0.1 on
AlexNet, as published in richzhang/PerceptualSimilarity. The backbone's parameter names are torchvision's, those of
the five linear layers are the publication's. The module knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

CONVOLUTIONS = {0: (11, 4, 2), 3: (5, 1, 2), 6: (3, 1, 1), 8: (3, 1, 1), 10: (3, 1, 1)}
"""Place in torchvision's `features` → side, stride, padding."""
POOLED_BEFORE = (3, 6)
WIDTHS = (64, 192, 384, 256, 256)
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
EPSILON = 1e-10


class LPIPS(nn.Module):
    """Distances (N,) of two batches of RGB pictures (N, 3, H, W) in [0, 1], sides at least 32; 0 = alike."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        inputs = (3, *widths)
        self.features = nn.ModuleDict(
            {
                str(place): nn.Conv2d(before, after, side, stride, padding)
                for (place, (side, stride, padding)), before, after in zip(
                    CONVOLUTIONS.items(), inputs[:-1], widths, strict=True
                )
            }
        )
        self.weights = nn.ParameterList([torch.zeros(1, width, 1, 1) for width in widths])
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1), persistent=False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        layers = zip(self._directions(a), self._directions(b), self.weights, strict=True)
        distances = [(weight * (left - right) ** 2).sum(1).mean((1, 2)) for left, right, weight in layers]
        return torch.stack(distances).sum(0)

    def _directions(self, x: Tensor) -> list[Tensor]:
        """The features of every layer, at each place of length 1."""
        x = (2 * x - 1 - self.get_buffer("shift")) / self.get_buffer("scale")
        found = []
        for place, convolution in self.features.items():
            if int(place) in POOLED_BEFORE:
                x = max_pool2d(x, 3, 2)
            x = relu(convolution(x))
            found.append(x / (x.norm(dim=1, keepdim=True) + EPSILON))
        return found


def lpips_for(backbone: Mapping[str, Tensor], linear: Mapping[str, Tensor]) -> LPIPS:
    """The network of two published files, filled and in evaluation mode; AlexNet's classifier is left out.

    Raises KeyError or RuntimeError when a file holds another network.
    """
    features = {key: value for key, value in backbone.items() if not key.startswith("classifier.")}
    net = LPIPS(tuple(len(features[f"features.{place}.weight"]) for place in CONVOLUTIONS))
    weights = {f"weights.{layer}": linear[f"lin{layer}.model.1.weight"] for layer in range(len(CONVOLUTIONS))}
    net.load_state_dict({**features, **weights}, strict=True)
    return net.eval()
