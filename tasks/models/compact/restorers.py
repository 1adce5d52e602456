"""The small restorers of the compact recipe: residual U-Nets that see how degraded their input is.

They take RGB (N, 3, H, W) float32 in [0, 1], as a rule 512×512, and return the same shape, clamped to [0, 1].
Tensors only; nothing of recipes, stages or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


class CompactRestorer(nn.Module):
    """A residual U-Net that works on the input reduced to `working` px and adds the enlarged correction.

    It weighs its features and its correction by what the whole picture looks like, so that a network that
    sees a clean face can do nothing. `place` tells it where in the aligned face a feature lies.
    After U-Net (Ronneberger et al. 2015) and FiLM (Perez et al. 2018), on pixel-unshuffled input as in
    Real-ESRGAN. With `fine` channels a second, shallow branch corrects the picture at twice `working` px, told by
    the U-Net what it saw. Detail finer than that passes through untouched. `mirrored` averages what it makes of the
    face and of its mirror image. A picture whose correction is smaller than `least` (root mean square) is returned as
    it came.
    """

    def __init__(
        self,
        working: int = 256,
        widths: Sequence[int] = (16, 48, 64, 96),
        blocks: Sequence[int] = (1, 1, 2, 2),
        least: float = 0.0,
        fine: int = 0,
        fine_blocks: int = 2,
        mirrored: bool = False,
    ) -> None:
        super().__init__()
        self.least, self.mirrored = least, mirrored
        self.working = 2 * working if fine else working
        first, last = widths[0], widths[-1]
        self.enter = nn.Conv2d(12, first, 3, padding=1)
        self.place = nn.Parameter(torch.zeros(1, first, 16, 16))
        self.encoder = nn.ModuleList(stack(w, n) for w, n in zip(widths, blocks, strict=True))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, 2) for a, b in pairwise(widths))
        self.up = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in pairwise(widths))
        self.decoder = nn.ModuleList(stack(w, n) for w, n in zip(widths[:-1], blocks[:-1], strict=True))
        self.summary = nn.Sequential(nn.LayerNorm(last), nn.Linear(last, last), nn.ReLU())
        self.scale = nn.ModuleList(nn.Linear(last, w) for w in widths[:-1])
        self.trust = nn.Linear(last, 1)
        self.leave = nn.Conv2d(first, 12, 3, padding=1)
        self.fine = _Fine(fine, fine_blocks, first, last) if fine else None
        zeroed(self.leave, self.trust, *self.scale)

    def forward(self, image: Tensor) -> Tensor:
        small = resize(image, self.working)
        change = self.correction(small)
        if self.mirrored:
            change = (change + self.correction(small.flip(3)).flip(3)) / 2
        if self.least > 0:
            change = change * self._worth(change)
        return (image + resize(change, image.shape[-1])).clamp(0, 1)

    def _worth(self, change: Tensor) -> Tensor:
        """0 where a picture's correction is no larger than what clean faces get, 1 from a third above it."""
        size = change.float().square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        return (3 * (size / self.least - 1)).clamp(0, 1)

    def correction(self, small: Tensor) -> Tensor:
        """What to add to a picture (N, 3, working, working), twice `working` with a fine branch."""
        if self.fine is None:
            x, seen = self._features(self._entered(small))
            return self._change(x, seen)
        detail = self.fine.look(small)
        x, seen = self._features(self._entered(functional.avg_pool2d(small, 2)) + self.fine.down(detail))
        change = functional.interpolate(
            self._change(x, seen).float(), scale_factor=2, mode="bicubic", align_corners=False
        )
        finer: Tensor = self.fine(detail, x, seen)
        return change + finer

    def _entered(self, small: Tensor) -> Tensor:
        x: Tensor = self.enter(functional.pixel_unshuffle(small - 0.5, 2))
        return x + functional.interpolate(self.place, size=x.shape[2:], mode="bilinear", align_corners=False)

    def _features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The U-Net's features (N, first, H/2, W/2), and its summary of the whole picture (N, last)."""
        kept: list[Tensor] = []
        for encode, down in zip(self.encoder, self.down, strict=False):
            kept.append(encode(x))
            x = down(kept[-1])
        x = self.encoder[-1](x)
        seen: Tensor = self.summary(x.mean(dim=(2, 3)))
        for level in reversed(range(len(self.up))):
            x = functional.pixel_shuffle(self.up[level](x), 2) + kept[level]
            x = self.decoder[level](x * (1 + torch.tanh(self.scale[level](seen))[:, :, None, None]))
        return x, seen

    def _change(self, x: Tensor, seen: Tensor) -> Tensor:
        trust = 2 * torch.sigmoid(self.trust(seen))[:, :, None, None]
        return functional.pixel_shuffle(trust * self.leave(x), 2)


class SevereRestorer(CompactRestorer):
    """The same, trained on faces of some 64 px and less; wider by default."""

    def __init__(
        self,
        working: int = 128,
        widths: Sequence[int] = (32, 64, 96, 128),
        blocks: Sequence[int] = (1, 2, 2, 2),
        least: float = 0.0,
        fine: int = 0,
        fine_blocks: int = 2,
        mirrored: bool = False,
    ) -> None:
        super().__init__(working, widths, blocks, least, fine, fine_blocks, mirrored)


class _Fine(nn.Module):
    """The branch at twice the U-Net's size: it looks first, and corrects when the U-Net has spoken."""

    def __init__(self, width: int, blocks: int, first: int, last: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(12, width, 3, padding=1)
        self.encoder = stack(width, blocks)
        self.down = nn.Conv2d(width, first, 2, 2)
        self.up = nn.Conv2d(first, 4 * width, 1)
        self.decoder = stack(width, blocks)
        self.scale = nn.Linear(last, width)
        self.leave = nn.Conv2d(width, 12, 3, padding=1)
        zeroed(self.down, self.scale, self.leave)

    def look(self, small: Tensor) -> Tensor:
        detail: Tensor = self.encoder(self.enter(functional.pixel_unshuffle(small - 0.5, 2)))
        return detail

    def forward(self, detail: Tensor, x: Tensor, seen: Tensor) -> Tensor:
        mixed = functional.pixel_shuffle(self.up(x), 2) + detail
        weighed = mixed * (1 + torch.tanh(self.scale(seen))[:, :, None, None])
        return functional.pixel_shuffle(self.leave(self.decoder(weighed)), 2)


def resize(image: Tensor, side: int) -> Tensor:
    """Resize square pictures: area-like when they shrink, bicubic when they grow."""
    if image.shape[-1] == side and image.shape[-2] == side:
        return image
    if image.shape[-1] % side == 0 and image.shape[-1] == image.shape[-2]:
        return functional.avg_pool2d(image, image.shape[-1] // side)
    return functional.interpolate(image, (side, side), mode="bicubic", align_corners=False, antialias=True)


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        with torch.no_grad():
            self.second.weight.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = self.second(functional.relu(self.first(x)))
        return x + changed


def stack(width: int, count: int) -> nn.Sequential:
    """Residual blocks of two 3×3 convolutions."""
    return nn.Sequential(*(_Block(width) for _ in range(count)))


def zeroed(*layers: nn.Module) -> None:
    """Let these layers start by doing nothing."""
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
