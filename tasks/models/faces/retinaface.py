"""RetinaFace: boxes and five landmarks of the faces in a picture, on a ResNet-50 or a small MobileNet.

Deng et al., "RetinaFace: Single-stage Dense Face Localisation in the Wild" (CVPR 2020), with the parameter
names and the decoding of xinntao/facexlib. The module knows nothing of files, devices or the picture sizes
that are worth detecting at.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from math import ceil
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

BodyName = Literal["mobile0.25", "resnet50"]

MEAN_BGR = (104.0, 117.0, 123.0)
STEPS = (8, 16, 32)
ANCHOR_SIDES = ((16, 32), (64, 128), (256, 512))
CENTRE_VARIANCE, SIZE_VARIANCE = 0.1, 0.2


class MobileNet(nn.Module):
    """A quarter-width MobileNet; the outputs are those of its three stages."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(
            _conv(3, 8, stride=2, slope=0.1),
            *(_separable(*sizes) for sizes in ((8, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1))),
        )
        self.stage2 = nn.Sequential(_separable(64, 128, 2), *(_separable(128, 128, 1) for _ in range(5)))
        self.stage3 = nn.Sequential(_separable(128, 256, 2), _separable(256, 256, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        first = self.stage1(x)
        second = self.stage2(first)
        return [first, second, self.stage3(second)]


class FPN(nn.Module):
    """Feature pyramid: coarse levels are enlarged and added to finer ones."""

    def __init__(self, inputs: Iterable[int], width: int) -> None:
        super().__init__()
        slope = _slope(width)
        self.output1, self.output2, self.output3 = (_conv(channels, width, 1, slope=slope) for channels in inputs)
        self.merge1 = _conv(width, width, slope=slope)
        self.merge2 = _conv(width, width, slope=slope)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        fine, middle, coarse = self.output1(levels[0]), self.output2(levels[1]), self.output3(levels[2])
        middle = self.merge2(middle + interpolate(coarse, size=middle.shape[-2:], mode="nearest"))
        fine = self.merge1(fine + interpolate(middle, size=fine.shape[-2:], mode="nearest"))
        return [fine, middle, coarse]


class SSH(nn.Module):
    """Context: views of 3×3, 5×5 and 7×7 pixels side by side."""

    def __init__(self, width: int) -> None:
        super().__init__()
        slope = _slope(width)
        half, quarter = width // 2, width // 4
        self.conv3X3 = _conv(width, half)
        self.conv5X5_1 = _conv(width, quarter, slope=slope)
        self.conv5X5_2 = _conv(quarter, quarter)
        self.conv7X7_2 = _conv(quarter, quarter, slope=slope)
        self.conv7x7_3 = _conv(quarter, quarter)

    def forward(self, x: Tensor) -> Tensor:
        shared = self.conv5X5_1(x)
        views = [self.conv3X3(x), self.conv5X5_2(shared), self.conv7x7_3(self.conv7X7_2(shared))]
        return torch.relu(torch.cat(views, dim=1))


class Head(nn.Module):
    """Numbers per anchor, two anchors per position: (N, anchors, numbers)."""

    def __init__(self, width: int, numbers: int) -> None:
        super().__init__()
        self.numbers = numbers
        self.conv1x1 = nn.Conv2d(width, 2 * numbers, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        raw: Tensor = self.conv1x1(x)
        return raw.permute(0, 2, 3, 1).reshape(len(x), -1, self.numbers)


class RetinaFace(nn.Module):
    """Maps BGR (N, 3, H, W), 0–255 minus `MEAN_BGR`, to box offsets, face probabilities and landmark offsets.

    Shapes (N, A, 4), (N, A, 2), (N, A, 10) for A anchors; `detect` turns them into faces.
    """

    def __init__(self, body: BodyName = "resnet50") -> None:
        super().__init__()
        narrow = body == "mobile0.25"
        width = 64 if narrow else 256
        self.body: nn.Module = MobileNet() if narrow else _resnet50()
        self.fpn = FPN((64, 128, 256) if narrow else (512, 1024, 2048), width)
        self.ssh1, self.ssh2, self.ssh3 = SSH(width), SSH(width), SSH(width)
        self.ClassHead = nn.ModuleList(Head(width, 2) for _ in STEPS)
        self.BboxHead = nn.ModuleList(Head(width, 4) for _ in STEPS)
        self.LandmarkHead = nn.ModuleList(Head(width, 10) for _ in STEPS)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = self.body(x)
        levels = self.fpn(list(found.values()) if isinstance(found, dict) else found)
        contexts = [ssh(level) for ssh, level in zip((self.ssh1, self.ssh2, self.ssh3), levels, strict=True)]
        boxes, classes, landmarks = (
            torch.cat([head(context) for head, context in zip(heads, contexts, strict=True)], dim=1)
            for heads in (self.BboxHead, self.ClassHead, self.LandmarkHead)
        )
        return boxes, classes.softmax(dim=-1), landmarks


def detect(net: nn.Module, bgr: Tensor, threshold: float = 0.97, overlap: float = 0.4) -> list[Tensor]:
    """Faces in each of N equally large pictures, BGR (N, 3, H, W), 0–255.

    One row per face, best first: x1 y1 x2 y2 score, then x and y of the eye on the left of the image, the
    eye on the right, nose, mouth corner on the left and on the right; pixels. A score equal to `threshold`
    does not count; of two boxes whose intersection over union exceeds `overlap` the better stays.
    """
    height, width = bgr.shape[-2:]
    mean = torch.tensor(MEAN_BGR, device=bgr.device, dtype=bgr.dtype).view(1, 3, 1, 1)
    boxes, classes, landmarks = net(bgr - mean)
    anchors = _anchors(height, width).to(bgr)
    rows = torch.cat([_decode_boxes(boxes, anchors), classes[..., 1:], _decode_points(landmarks, anchors)], dim=-1)
    scale = torch.tensor([width, height, width, height, 1] + [width, height] * 5).to(bgr)
    return [_best_apart(faces[faces[:, 4] > threshold], overlap) for faces in rows * scale]


def _decode_boxes(offsets: Tensor, anchors: Tensor) -> Tensor:
    centres = anchors[:, :2] + offsets[..., :2] * CENTRE_VARIANCE * anchors[:, 2:]
    sides = anchors[:, 2:] * torch.exp(offsets[..., 2:] * SIZE_VARIANCE)
    return torch.cat([centres - sides / 2, centres + sides / 2], dim=-1)


def _decode_points(offsets: Tensor, anchors: Tensor) -> Tensor:
    return anchors[:, :2].repeat(1, 5) + offsets * CENTRE_VARIANCE * anchors[:, 2:].repeat(1, 5)


@lru_cache(maxsize=16)
def _anchors(height: int, width: int) -> Tensor:
    """Centre x, centre y, width, height of every anchor as shares of the picture, (A, 4) float32."""
    levels = []
    for step, sides in zip(STEPS, ANCHOR_SIDES, strict=True):
        rows, columns = (torch.arange(ceil(length / step), dtype=torch.float64) for length in (height, width))
        y, x = torch.meshgrid((rows + 0.5) * step / height, (columns + 0.5) * step / width, indexing="ij")
        per_side = [
            torch.stack([x, y, torch.full_like(x, side / width), torch.full_like(x, side / height)], -1)
            for side in sides
        ]
        levels.append(torch.stack(per_side, dim=2).reshape(-1, 4))
    return torch.cat(levels).float()


def _best_apart(faces: Tensor, overlap: float) -> Tensor:
    """Greedy suppression: the best face of each heap of overlapping boxes, best first."""
    remaining = faces[faces[:, 4].argsort(descending=True)]
    kept = []
    while len(remaining):
        best, remaining = remaining[0], remaining[1:]
        kept.append(best)
        remaining = remaining[_intersection_over_union(best, remaining) <= overlap]
    return torch.stack(kept) if kept else faces


def _intersection_over_union(face: Tensor, others: Tensor) -> Tensor:
    low = torch.maximum(face[:2], others[:, :2])
    high = torch.minimum(face[2:4], others[:, 2:4])
    shared = (high - low).clamp(min=0).prod(dim=1)
    areas = (others[:, 2:4] - others[:, :2]).prod(dim=1)
    return shared / ((face[2:4] - face[:2]).prod() + areas - shared)


def _resnet50() -> nn.Module:
    from torchvision.models import resnet50
    from torchvision.models._utils import IntermediateLayerGetter

    body: nn.Module = IntermediateLayerGetter(
        resnet50(weights=None), {"layer2": "fine", "layer3": "middle", "layer4": "coarse"}
    )
    return body


def _slope(width: int) -> float:
    """Negative slope of the activations: the narrow net leaks, the wide one does not."""
    return 0.1 if width <= 64 else 0.0


def _conv(inputs: int, outputs: int, side: int = 3, stride: int = 1, slope: float | None = None) -> nn.Sequential:
    """Convolution and normalisation, and an activation where a slope is given."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, side, stride, side // 2, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers) if slope is None else nn.Sequential(*layers, nn.LeakyReLU(slope))


def _separable(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.LeakyReLU(0.1),
        *_conv(inputs, outputs, 1, slope=0.1),
    )
