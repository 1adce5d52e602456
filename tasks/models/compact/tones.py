"""The small tone networks of the compact recipe: dehazing and skin tone, by a colour matrix for every place.

They take RGB (N, 3, H, W) float32 in [0, 1], as a rule 512×512, and return the same shape, clamped to [0, 1].
Tensors only; nothing of recipes, stages or files.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tasks.models.compact.restorers import resize, stack, zeroed

GREY = 0.01
"""Mean difference between the channels up to which a picture counts as grey; from twice that it counts as coloured."""


class ToneGrid(nn.Module):
    """Looks at the picture reduced to `working` px and corrects every pixel by a 3×4 colour matrix.

    What a matrix is applied to are colours without the picture's mean and deviation, so that bringing a picture to
    given ones is linear in what the network knows of it. The matrices lie on a 16×16 grid and are interpolated
    between, as haze, bleached dyes and casts are affine in colour and smooth in place; no detail is drawn or lost.
    After the bilateral grids of HDRnet (Gharbi et al. 2017), without the dimension of lightness. What it makes of
    the picture and of its mirror image is averaged. A picture whose correction is smaller than `least` (root mean
    square) is returned as it came.
    """

    SHARES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
    DARK, LIGHT = (0.0, 0.05, 0.25), (0.75, 0.95, 1.0)
    OUTPUTS = 12

    def __init__(self, working: int = 64, width: int = 24, hidden: int = 96, least: float = 0.0) -> None:
        super().__init__()
        self.working, self.least = working, least
        seen = 3 * (len(self.SHARES) + 2) + 3 + 3 * (len(self.DARK) + len(self.LIGHT))
        self.place = nn.Parameter(torch.zeros(1, 2 * width, 16, 16))
        self.near = nn.Sequential(_half(3, width), _half(width, 2 * width))
        self.extreme = nn.Sequential(nn.Conv2d(9, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 2 * width, 1))
        self.within = nn.Sequential(*stack(2 * width, 2))
        self.far = nn.Sequential(_half(2 * width, 4 * width), *stack(4 * width, 2))
        self.marks = nn.Sequential(nn.Linear(seen + 4 * width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.tell = nn.Linear(hidden, 4 * width)
        self.mix = nn.Sequential(*stack(4 * width, 1))
        self.up = nn.Conv2d(4 * width, 8 * width, 1)
        self.join = nn.Sequential(*stack(2 * width, 2))
        self.everywhere = nn.Linear(hidden, self.OUTPUTS)
        self.leave = nn.Conv2d(2 * width, self.OUTPUTS, 3, padding=1)
        zeroed(self.everywhere, self.leave)

    def forward(self, image: Tensor) -> Tensor:
        seen = resize(image, 2 * self.working)
        small, mirrored = functional.avg_pool2d(seen, 2), seen.flip(3)
        grid = (self.grid(seen) + self.grid(mirrored).flip(3)) / 2
        change = self._change(grid, image, small)
        if self.least > 0:
            size = self._change(grid, small, small).square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
            change = change * (3 * (size / self.least - 1)).clamp(0, 1)
        return (image + change).clamp(0, 1)

    def toned(self, seen: Tensor) -> Tensor:
        """A picture of twice `working` px, reduced to `working` px with its tones put right, not clamped."""
        small = functional.avg_pool2d(seen, 2)
        return small + self._change(self.grid(seen), small, small)

    def grid(self, seen: Tensor) -> Tensor:
        """What to do at every place (N, OUTPUTS, 16, 16) of a picture at twice `working` px; zeros do nothing.

        Here what to add to each colour: three rows of gains for red, green, blue, and an offset.
        """
        small = functional.avg_pool2d(seen, 2)
        extremes = _extremes(seen)
        near = self.within(self.near(small - 0.5) + self.extreme(extremes - 0.5)) + self.place
        far = self.far(near)
        known = torch.cat([self._statistics(small), self._ends(extremes), far.mean(dim=(2, 3))], dim=1)
        told = self.marks(known)
        mixed = self.mix(far + self.tell(told)[:, :, None, None])
        local: Tensor = self.leave(self.join(near + functional.pixel_shuffle(self.up(mixed), 2)))
        everywhere: Tensor = self.everywhere(told)
        return (local + everywhere[:, :, None, None]).float()

    def _change(self, grid: Tensor, image: Tensor, small: Tensor) -> Tensor:
        """What a grid changes in pictures (N, 3, H, W), `small` being their likeness."""
        mean, spread = small.mean(dim=(2, 3), keepdim=True), small.std(dim=(2, 3), keepdim=True).clamp(min=0.02)
        each = functional.interpolate(grid, size=image.shape[2:], mode="bilinear", align_corners=False)
        each = each.view(len(image), 3, 4, *image.shape[2:])
        plain = (image - mean) / spread
        red, green, blue = (each[:, :, channel] * plain[:, channel : channel + 1] for channel in range(3))
        return _grey_kept(red + green + blue + each[:, :, 3], small)

    def _statistics(self, small: Tensor) -> Tensor:
        pixels = small.flatten(2)
        edge = small.shape[2] // 4
        centre = small[:, :, edge:-edge, edge:-edge].mean(dim=(2, 3))
        marks = [_quantiles(pixels[:, :, ::4], self.SHARES), pixels.mean(2, keepdim=True), pixels.std(2, keepdim=True)]
        return torch.cat([torch.cat(marks, dim=2).flatten(1), centre], dim=1)

    def _ends(self, extremes: Tensor) -> Tensor:
        dark, light = extremes[:, :3].flatten(2), extremes[:, 3:6].flatten(2)
        return torch.cat([_quantiles(dark, self.DARK), _quantiles(light, self.LIGHT)], dim=2).flatten(1)


class CompactDehaze(ToneGrid):
    """Takes away haze and the fading of prints."""


class CompactSkinTone(ToneGrid):
    """Takes away colour casts by a gain (its logarithm) for every channel and place: what is dark stays dark."""

    OUTPUTS = 3

    def _change(self, grid: Tensor, image: Tensor, small: Tensor) -> Tensor:
        gains = functional.interpolate(grid, size=image.shape[2:], mode="bilinear", align_corners=False)
        return _grey_kept(image * (gains.exp() - 1), small)


def _extremes(seen: Tensor) -> Tensor:
    """The darkest and lightest pixel of each of 16×16 places, and the darkest round it (N, 9, 16, 16).

    Averaging loses them, and they tell haze from light things (dark channel, He et al. 2009) and light from colour
    (white patch, Land 1977).
    """
    window = seen.shape[2] // 16
    dark = -functional.max_pool2d(-seen, window)
    return torch.cat([dark, functional.max_pool2d(seen, window), -functional.max_pool2d(-dark, 5, 1, 2)], dim=1)


def _quantiles(values: Tensor, shares: tuple[float, ...]) -> Tensor:
    ordered = values.sort(dim=2).values
    return ordered[:, :, [int(share * (values.shape[2] - 1)) for share in shares]]


def _grey_kept(change: Tensor, small: Tensor) -> Tensor:
    """The change, of lightness alone where the picture is grey: without colours to go by, there is nothing to tell."""
    colour = (small.amax(dim=1) - small.amin(dim=1)).mean(dim=(1, 2))[:, None, None, None]
    grey = change.mean(dim=1, keepdim=True)
    return grey + (change - grey) * (colour / GREY - 1).clamp(0, 1)


def _half(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 4, 2, padding=1), nn.ReLU())
