"""The Inception network of FID: pictures in, 2048 pooled features out.

Szegedy et al., "Rethinking the Inception Architecture" (CVPR 2016), as TensorFlow's 2015-12-05 release has it and
mseitzer/pytorch-fid ports it. Parameter names are those of that port's file. It differs from torchvision's
inception_v3 in its pooling branches only: averages leave the padding out, and the last block takes the maximum. The
module knows nothing of statistics or distances.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

SIDE = 299
CLASSES = 1008
Size: TypeAlias = tuple[int, int]
Path: TypeAlias = tuple[str, ...]


class Unit(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, size: Size = (1, 1), stride: int = 1, padding: Size = (0, 0)) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.bn(self.conv(x)))


class Block(nn.Module):
    """Branches side by side, joined by channel. Units that several branches begin with are computed once."""

    def __init__(self, units: Mapping[str, Unit], branches: tuple[Path, ...], pool: nn.Module) -> None:
        super().__init__()
        for name, unit in units.items():
            self.add_module(name, unit)
        self.branches = branches
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        done: dict[Path, Tensor] = {(): x}
        for branch in self.branches:
            for length, name in enumerate(branch, 1):
                if branch[:length] not in done:
                    done[branch[:length]] = self.get_submodule(name)(done[branch[: length - 1]])
        return torch.cat([done[branch] for branch in self.branches], dim=1)


class FidInception(nn.Module):
    """Maps RGB (N, 3, H, W) in [-1, 1] to features (N, 2048 / narrow).

    Pictures are brought to 299 pixels bilinearly first, without antialiasing. `narrow` divides every width (a whole
    number that divides 16); the published network has 1. `fc`, the classifier, is in the file and not used.
    """

    def __init__(self, narrow: int = 1) -> None:
        super().__init__()
        wide = _Widths(narrow)
        self.Conv2d_1a_3x3 = wide.unit(3, 32, (3, 3), stride=2, colours=True)
        self.Conv2d_2a_3x3 = wide.unit(32, 32, (3, 3))
        self.Conv2d_2b_3x3 = wide.unit(32, 64, (3, 3), padding=(1, 1))
        self.maxpool1 = nn.MaxPool2d(3, 2)
        self.Conv2d_3b_1x1 = wide.unit(64, 80)
        self.Conv2d_4a_3x3 = wide.unit(80, 192, (3, 3))
        self.maxpool2 = nn.MaxPool2d(3, 2)
        self.Mixed_5b = wide.fine(192, 32)
        self.Mixed_5c = wide.fine(256, 64)
        self.Mixed_5d = wide.fine(288, 64)
        self.Mixed_6a = wide.fine_to_middle(288)
        self.Mixed_6b = wide.middle(128)
        self.Mixed_6c = wide.middle(160)
        self.Mixed_6d = wide.middle(160)
        self.Mixed_6e = wide.middle(192)
        self.Mixed_7a = wide.middle_to_coarse(768)
        self.Mixed_7b = wide.coarse(1280, _average())
        self.Mixed_7c = wide.coarse(2048, nn.MaxPool2d(3, 1, 1))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2048 // narrow, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = interpolate(x, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        for name, module in self.named_children():
            if name != "fc":
                x = module(x)
        return x.flatten(1)


def inception_for(state: Mapping[str, Tensor]) -> FidInception:
    """The network that a published file holds, filled and in evaluation mode.

    Raises KeyError or RuntimeError when the file holds another network.
    """
    net = FidInception(narrow=max(1, 32 // len(state["Conv2d_1a_3x3.conv.weight"])))
    counts = {key: value for key, value in net.state_dict().items() if key.endswith("num_batches_tracked")}
    net.load_state_dict({**counts, **state}, strict=True)  # files older than torch 0.4.1 have no such counts
    return net.eval()


class _Widths:
    """Builds the parts of the network, every width divided."""

    def __init__(self, narrow: int) -> None:
        self.narrow = narrow

    def unit(
        self,
        inputs: int,
        outputs: int,
        size: Size = (1, 1),
        *,
        stride: int = 1,
        padding: Size = (0, 0),
        colours: bool = False,
    ) -> Unit:
        return Unit(inputs if colours else inputs // self.narrow, outputs // self.narrow, size, stride, padding)

    def same(self, inputs: int, outputs: int, size: Size) -> Unit:
        """Keeps the size of the picture."""
        return self.unit(inputs, outputs, size, padding=(size[0] // 2, size[1] // 2))

    def fine(self, inputs: int, pooled: int) -> Block:
        units = {
            "branch1x1": self.unit(inputs, 64),
            "branch5x5_1": self.unit(inputs, 48),
            "branch5x5_2": self.same(48, 64, (5, 5)),
            "branch3x3dbl_1": self.unit(inputs, 64),
            "branch3x3dbl_2": self.same(64, 96, (3, 3)),
            "branch3x3dbl_3": self.same(96, 96, (3, 3)),
            "branch_pool": self.unit(inputs, pooled),
        }
        return Block(units, (("branch1x1",), _chain("branch5x5", 2), _chain("branch3x3dbl", 3), POOLED), _average())

    def fine_to_middle(self, inputs: int) -> Block:
        units = {
            "branch3x3": self.unit(inputs, 384, (3, 3), stride=2),
            "branch3x3dbl_1": self.unit(inputs, 64),
            "branch3x3dbl_2": self.same(64, 96, (3, 3)),
            "branch3x3dbl_3": self.unit(96, 96, (3, 3), stride=2),
        }
        return Block(units, (("branch3x3",), _chain("branch3x3dbl", 3), ("pool",)), nn.MaxPool2d(3, 2))

    def middle(self, seven: int) -> Block:
        units = {
            "branch1x1": self.unit(768, 192),
            "branch7x7_1": self.unit(768, seven),
            "branch7x7_2": self.same(seven, seven, (1, 7)),
            "branch7x7_3": self.same(seven, 192, (7, 1)),
            "branch7x7dbl_1": self.unit(768, seven),
            "branch7x7dbl_2": self.same(seven, seven, (7, 1)),
            "branch7x7dbl_3": self.same(seven, seven, (1, 7)),
            "branch7x7dbl_4": self.same(seven, seven, (7, 1)),
            "branch7x7dbl_5": self.same(seven, 192, (1, 7)),
            "branch_pool": self.unit(768, 192),
        }
        return Block(units, (("branch1x1",), _chain("branch7x7", 3), _chain("branch7x7dbl", 5), POOLED), _average())

    def middle_to_coarse(self, inputs: int) -> Block:
        units = {
            "branch3x3_1": self.unit(inputs, 192),
            "branch3x3_2": self.unit(192, 320, (3, 3), stride=2),
            "branch7x7x3_1": self.unit(inputs, 192),
            "branch7x7x3_2": self.same(192, 192, (1, 7)),
            "branch7x7x3_3": self.same(192, 192, (7, 1)),
            "branch7x7x3_4": self.unit(192, 192, (3, 3), stride=2),
        }
        return Block(units, (_chain("branch3x3", 2), _chain("branch7x7x3", 4), ("pool",)), nn.MaxPool2d(3, 2))

    def coarse(self, inputs: int, pool: nn.Module) -> Block:
        units = {
            "branch1x1": self.unit(inputs, 320),
            "branch3x3_1": self.unit(inputs, 384),
            "branch3x3_2a": self.same(384, 384, (1, 3)),
            "branch3x3_2b": self.same(384, 384, (3, 1)),
            "branch3x3dbl_1": self.unit(inputs, 448),
            "branch3x3dbl_2": self.same(448, 384, (3, 3)),
            "branch3x3dbl_3a": self.same(384, 384, (1, 3)),
            "branch3x3dbl_3b": self.same(384, 384, (3, 1)),
            "branch_pool": self.unit(inputs, 192),
        }
        short, long = ("branch3x3_1",), _chain("branch3x3dbl", 2)
        branches = (
            ("branch1x1",),
            (*short, "branch3x3_2a"),
            (*short, "branch3x3_2b"),
            (*long, "branch3x3dbl_3a"),
            (*long, "branch3x3dbl_3b"),
            POOLED,
        )
        return Block(units, branches, pool)


POOLED: Path = ("pool", "branch_pool")


def _chain(name: str, length: int) -> Path:
    return tuple(f"{name}_{number}" for number in range(1, length + 1))


def _average() -> nn.Module:
    return nn.AvgPool2d(3, 1, 1, count_include_pad=False)
