"""The small networks of the compact recipe, for CPUs: restorers, quality, dehazing, skin tone, landmarks.

All but `LandmarkNet` take RGB (N, 3, H, W) float32 in [0, 1], as a rule 512×512. Those that return a picture
return one of the same shape, clamped to [0, 1], and leave a clean face nearly alone. `load_compact` builds a
network from a safetensors file that names it. The module knows nothing of recipes, stages or devices.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from tasks.models.compact_faces import LandmarkNet
from tasks.models.face_tone_net import FaceToneNet
from tasks.models.ffa_net import FFANet, normalise


class CompactRestorer(nn.Module):
    """A residual U-Net that works on the input reduced to `working` px and adds the enlarged correction.

    It weighs its features and its correction by what the whole picture looks like, so that a network that
    sees a clean face can do nothing. `place` tells it where in the aligned face a feature lies.
    After U-Net (Ronneberger et al. 2015) and FiLM (Perez et al. 2018), on pixel-unshuffled input as in
    Real-ESRGAN. Detail finer than `working` passes through untouched. A picture whose correction is smaller than
    `least` (root mean square) is returned as it came.
    """

    def __init__(
        self,
        working: int = 256,
        widths: Sequence[int] = (16, 48, 64, 96),
        blocks: Sequence[int] = (1, 1, 2, 2),
        least: float = 0.0,
    ) -> None:
        super().__init__()
        self.working, self.least = working, least
        first, last = widths[0], widths[-1]
        self.enter = nn.Conv2d(12, first, 3, padding=1)
        self.place = nn.Parameter(torch.zeros(1, first, 16, 16))
        self.encoder = nn.ModuleList(_stack(w, n) for w, n in zip(widths, blocks, strict=True))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, 2) for a, b in pairwise(widths))
        self.up = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in pairwise(widths))
        self.decoder = nn.ModuleList(_stack(w, n) for w, n in zip(widths[:-1], blocks[:-1], strict=True))
        self.summary = nn.Sequential(nn.LayerNorm(last), nn.Linear(last, last), nn.ReLU())
        self.scale = nn.ModuleList(nn.Linear(last, w) for w in widths[:-1])
        self.trust = nn.Linear(last, 1)
        self.leave = nn.Conv2d(first, 12, 3, padding=1)
        _zero(self.leave, self.trust, *self.scale)

    def forward(self, image: Tensor) -> Tensor:
        change = self.correction(resize(image, self.working))
        if self.least > 0:
            change = change * self._worth(change)
        return (image + resize(change, image.shape[-1])).clamp(0, 1)

    def _worth(self, change: Tensor) -> Tensor:
        """0 where a picture's correction is no larger than what clean faces get, 1 from a third above it."""
        size = change.float().square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        return (3 * (size / self.least - 1)).clamp(0, 1)

    def correction(self, small: Tensor) -> Tensor:
        """What to add to a picture (N, 3, working, working)."""
        x = self.enter(functional.pixel_unshuffle(small - 0.5, 2))
        x = x + functional.interpolate(self.place, size=x.shape[2:], mode="bilinear", align_corners=False)
        kept: list[Tensor] = []
        for encode, down in zip(self.encoder, self.down, strict=False):
            kept.append(encode(x))
            x = down(kept[-1])
        x = self.encoder[-1](x)
        seen = self.summary(x.mean(dim=(2, 3)))
        for level in reversed(range(len(self.up))):
            x = functional.pixel_shuffle(self.up[level](x), 2) + kept[level]
            x = self.decoder[level](x * (1 + torch.tanh(self.scale[level](seen))[:, :, None, None]))
        trust = 2 * torch.sigmoid(self.trust(seen))[:, :, None, None]
        return functional.pixel_shuffle(trust * self.leave(x), 2)


class SevereRestorer(CompactRestorer):
    """The same for faces of some 32 px and less: it works at 128 px, with wider layers."""

    def __init__(
        self,
        working: int = 128,
        widths: Sequence[int] = (32, 64, 96, 128),
        blocks: Sequence[int] = (1, 2, 2, 2),
        least: float = 0.0,
    ) -> None:
        super().__init__(working, widths, blocks, least)


class QualityNet(nn.Module):
    """Maps RGB (N, 3, 512, 512) in [0, 1] to a no-reference score (N,) in [0, 1]; 1 is a clean face.

    It is trained to predict clip((PSNR to the truth − 16) / 26, 0, 1), PSNR in dB. It sees statistics alone:
    of tones, and of the detail of luma and chroma at six scales (three norms each, which tell noise from edges),
    in the spirit of natural scene statistics (BRISQUE, Mittal et al. 2012).
    """

    SCALES = 6

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        seen = 3 * 3 * self.SCALES + 3 * 2
        self.settle = nn.BatchNorm1d(seen, affine=False)
        self.score = nn.Sequential(
            nn.Linear(seen, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1)
        )

    def forward(self, image: Tensor) -> Tensor:
        scored: Tensor = self.score(self.settle(self.statistics(image.float()))).float()
        return torch.sigmoid(scored).squeeze(1)

    @torch.no_grad()
    def statistics(self, image: Tensor) -> Tensor:
        """Tones and detail (N, 60) of pictures (N, 3, H, W), H and W of 64 px and more."""
        luma = image.mean(dim=1, keepdim=True)
        planes = torch.cat([luma, image[:, :1] - luma, image[:, 2:] - luma], dim=1)
        seen = [planes.mean(dim=(2, 3)), planes.std(dim=(2, 3))]
        for _ in range(self.SCALES):
            coarse = functional.avg_pool2d(planes, 2)
            smooth = functional.interpolate(coarse, size=planes.shape[2:], mode="bilinear", align_corners=False)
            detail = (planes - smooth).abs() + 1e-4
            seen += [detail.mean(dim=(2, 3)).log(), detail.sqrt().mean(dim=(2, 3)).log()]
            seen.append((detail**2).mean(dim=(2, 3)).log())
            planes = coarse
        return torch.cat(seen, dim=1)


class Levels(nn.Module):
    """Corrects the tones of a whole picture by one 3×4 colour matrix, read off its mean, spread and quantiles."""

    SHARES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)

    def __init__(self, hidden: int = 64) -> None:
        super().__init__()
        seen = 3 * (len(self.SHARES) + 2) + 3
        self.matrix = nn.Sequential(nn.Linear(seen, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.leave = nn.Linear(hidden, 12)
        _zero(self.leave)

    def forward(self, image: Tensor) -> Tensor:
        pixels = image.flatten(2)
        ordered = pixels.sort(dim=2).values
        places = [int(share * (pixels.shape[2] - 1)) for share in self.SHARES]
        centre = image[:, :, image.shape[2] // 4 : -image.shape[2] // 4, image.shape[3] // 4 : -image.shape[3] // 4]
        marks = [ordered[:, :, places], pixels.mean(2, keepdim=True), pixels.std(2, keepdim=True)]
        seen = torch.cat([torch.cat(marks, dim=2).flatten(1), centre.mean(dim=(2, 3))], dim=1)
        matrix: Tensor = self.leave(self.matrix(seen)).view(-1, 3, 4).to(image.dtype)
        change = matrix[:, :, :3] @ (pixels - 0.5) + matrix[:, :, 3:]
        return image + change.view_as(image)


class CompactDehaze(nn.Module):
    """`Levels`, then FFA-Net, on a reduced picture; the change is carried to full size by a guided filter."""

    def __init__(self, working: int = 64, groups: int = 2, blocks: int = 2, width: int = 16) -> None:
        super().__init__()
        self.working = working
        self.levels = Levels()
        self.net = FFANet(groups, blocks, width)

    def forward(self, image: Tensor) -> Tensor:
        small = resize(image, self.working)
        return guided_change(image, small, self.toned(small))

    def toned(self, small: Tensor) -> Tensor:
        """The reduced picture (N, 3, working, working) without haze, not clamped."""
        levelled: Tensor = self.levels(small)
        change: Tensor = self.net(normalise(levelled)) - normalise(levelled)
        return levelled + change


class CompactSkinTone(nn.Module):
    """`Levels`, then FaceToneNet, on a reduced picture; the change is carried to full size by a guided filter."""

    def __init__(self, working: int = 64, depth: int = 6, width: int = 8) -> None:
        super().__init__()
        self.working = working
        self.levels = Levels()
        self.net = FaceToneNet(depth, width)

    def forward(self, image: Tensor) -> Tensor:
        small = resize(image, self.working)
        return guided_change(image, small, self.toned(small))

    def toned(self, small: Tensor) -> Tensor:
        """The reduced picture (N, 3, working, working) with its colours put right, not clamped."""
        toned: Tensor = self.net(self.levels(small) * 2 - 1)
        return (toned + 1) / 2


def resize(image: Tensor, side: int) -> Tensor:
    """Resize square pictures: area-like when they shrink, bicubic when they grow."""
    if image.shape[-1] == side and image.shape[-2] == side:
        return image
    if image.shape[-1] % side == 0 and image.shape[-1] == image.shape[-2]:
        return functional.avg_pool2d(image, image.shape[-1] // side)
    return functional.interpolate(image, (side, side), mode="bicubic", align_corners=False, antialias=True)


def guided_change(image: Tensor, small: Tensor, changed: Tensor, radius: int = 2, eps: float = 1e-4) -> Tensor:
    """Carry the change from `small` to `changed` over to `image` by local linear models.

    The fast guided filter (He and Sun 2015) applied to the difference: an unchanged small picture changes
    nothing at full size, and a change of contrast reaches the detail that the small picture lacks. The result
    is clamped to [0, 1].
    """
    change = changed - small
    mean_x, mean_y = _box(small, radius), _box(change, radius)
    gain = (_box(small * change, radius) - mean_x * mean_y) / (_box(small * small, radius) - mean_x**2 + eps)
    offset = mean_y - gain * mean_x
    side = image.shape[-1]
    enlarged = functional.interpolate(
        torch.cat([_box(gain, radius), _box(offset, radius)], dim=1),
        (side, side),
        mode="bilinear",
        align_corners=False,
    )
    gain, offset = enlarged.chunk(2, dim=1)
    return (image + gain * image + offset).clamp(0, 1)


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "restorer": CompactRestorer,
    "severe": SevereRestorer,
    "quality": QualityNet,
    "dehaze": CompactDehaze,
    "skin_tone": CompactSkinTone,
    "landmarks": LandmarkNet,
}


def build(name: str, **config: object) -> nn.Module:
    """Build an untrained network of the table `NETWORKS`. Raises KeyError for a name that is not in it."""
    if name not in NETWORKS:
        raise KeyError(f"no compact network is called {name!r}; there are {', '.join(NETWORKS)}")
    return NETWORKS[name](**config)


def save_compact(net: nn.Module, name: str, config: dict[str, object], path: Path) -> None:
    """Write weights as 16-bit floats with the network's name and configuration in the metadata."""
    tensors = {key: value.detach().cpu().half().contiguous() for key, value in net.state_dict().items()}
    save_file(tensors, str(path), metadata={"network": name, "config": json.dumps(config, sort_keys=True)})


def load_compact(path: str | Path) -> nn.Module:
    """Load a network in evaluation mode, float32, on the CPU.

    Raises ValueError when the file does not say which network it holds.
    """
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    if "network" not in metadata:
        raise ValueError(f"{path} names no compact network in its metadata; expected a file of models/weights")
    net = build(metadata["network"], **json.loads(metadata.get("config", "{}")))
    net.load_state_dict(tensors)
    return net.eval().requires_grad_(False)


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


def _stack(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(_Block(width) for _ in range(count)))


def _zero(*layers: nn.Module) -> None:
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)


def _box(x: Tensor, radius: int) -> Tensor:
    return functional.avg_pool2d(
        functional.pad(x, (radius,) * 4, mode="replicate"), kernel_size=2 * radius + 1, stride=1
    )
