"""The small quality network of the compact recipe: how far a face is from clean, without its truth.

Tensors only; nothing of recipes, stages or files.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

SCALES = 6
GRID = 16
NORMS = 3 * 3 * SCALES
SEEN = NORMS + 2 * 3
LEAST_ERROR = 1e-5
"""Squared error below which pictures count as the same (50 dB)."""
LOWEST_DB, RANGE_DB = 16.0, 26.0


class QualityNet(nn.Module):
    """Maps RGB (N, 3, H, W) in [0, 1], as a rule 512×512, to a no-reference score (N,) in [0, 1]; 1 is a clean face.

    The score stands for clip((PSNR to the truth − 16) / 26, 0, 1), PSNR in dB. One part judges statistics of the whole
    and of its middle. The other tells faces of one degradation apart by how much fine detail each had to lose; it
    knows its own kind of photograph too well, so it may move the score by no more than `reach`.
    """

    def __init__(self, width: int = 96, places: int = 32, reach: float = 0.05) -> None:
        super().__init__()
        self.reach = reach
        self.whole = WholeJudge(width)
        self.places = PlaceJudge(places)

    def forward(self, image: Tensor) -> Tensor:
        return self.judge(statistics(image))

    def judge(self, seen: Tensor) -> Tensor:
        """The score (N,) of pictures with these `statistics`, in float32 whatever is asked for."""
        with torch.autocast(seen.device.type, enabled=False):
            whole: Tensor = self.whole(seen.float())
            places = score_of(self.places(seen.float())).clamp(0, 1)
        return (whole + (places - whole).clamp(-self.reach, self.reach)).clamp(0, 1)


class WholeJudge(nn.Module):
    """Scores (N,) in [0, 1] from `statistics`, averaged over the whole and over its middle."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.settle = nn.BatchNorm1d(2 * SEEN, affine=False)
        self.score = nn.Sequential(
            nn.Linear(2 * SEEN, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1)
        )

    def forward(self, seen: Tensor) -> Tensor:
        quarter = GRID // 4
        middle = seen[:, :, quarter:-quarter, quarter:-quarter]
        scored: Tensor = self.score(self.settle(torch.cat([_averaged(seen), _averaged(middle)], dim=1)))
        return torch.sigmoid(scored).squeeze(1)


class PlaceJudge(nn.Module):
    """Guesses the squared error at every place (N, 16, 16), as a decimal logarithm, from `statistics`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.settle = nn.BatchNorm2d(len(LOCAL), affine=False)
        self.place = nn.Sequential(nn.Conv2d(len(LOCAL), width, 1), nn.SiLU(), nn.Conv2d(width, width, 1))
        self.whole = nn.Sequential(
            nn.Linear(len(SHARES) * len(LOCAL) + 2 * width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width)
        )
        self.error = nn.Sequential(nn.SiLU(), nn.Conv2d(width, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, 1, 1))

    def forward(self, seen: Tensor) -> Tensor:
        settled = self.settle(seen[:, LOCAL])
        places = self.place(settled)
        active = functional.silu(places)
        ranked = functional.avg_pool2d(settled, 2).flatten(2).sort(dim=2).values
        marks = [ranked[:, :, round(share * (ranked.shape[2] - 1))] for share in SHARES]
        whole = self.whole(torch.cat([*marks, active.mean(dim=(2, 3)), active.amax(dim=(2, 3))], dim=1))
        guessed: Tensor = self.error(places + whole[:, :, None, None])
        return guessed.squeeze(1) - 3


LOCAL = [*range(NORMS - 9), *range(NORMS, NORMS + 3)]
"""Of the `statistics`, those that say something of a place: detail of the five finer scales, and the colour."""
SHARES = (0.03, 0.15, 0.5, 0.85, 0.97)
"""Quantiles over the places: the smoothest show the noise, the others what there is to lose."""


def score_of(errors: Tensor, shares: Tensor | None = None) -> Tensor:
    """The score (N,), not clipped, of squared errors (N, 16, 16), as decimal logarithms; `shares` weigh the places."""
    weights = torch.ones_like(errors) if shares is None else shares
    # 10 ** errors has no limit: an untrained network must not reach infinity.
    squares = (errors.clamp(-8, 1) * math.log(10)).exp()
    mean = (squares * weights).sum(dim=(1, 2)) / weights.sum(dim=(1, 2))
    return (-10 * (mean + LEAST_ERROR).log10() - LOWEST_DB) / RANGE_DB


@torch.no_grad()
def statistics(image: Tensor) -> Tensor:
    """Detail and tones (N, SEEN, 16, 16) of pictures (N, 3, H, W), H and W of 512 px as a rule and of 128 at least.

    At six scales three norms of the detail of luma and chroma, which tell noise from edges and edges from blur, in
    the spirit of natural scene statistics (BRISQUE, Mittal et al. 2012), as logarithms; their means and mean squares.
    """
    luma = image.float().mean(dim=1, keepdim=True)
    planes = torch.cat([luma, image[:, :1].float() - luma, image[:, 2:].float() - luma], dim=1)
    tones = functional.adaptive_avg_pool2d(torch.cat([planes, planes**2], dim=1), GRID)
    seen = []
    for _ in range(SCALES):
        coarse = functional.avg_pool2d(planes, 2)
        smooth = functional.interpolate(coarse, size=planes.shape[2:], mode="bilinear", align_corners=False)
        detail = (planes - smooth).abs() + 1e-4
        norms = torch.cat([detail, detail.sqrt(), detail**2], dim=1)
        seen.append(functional.adaptive_avg_pool2d(norms, GRID).log())
        planes = coarse
    return torch.cat([*seen, tones], dim=1)


def _averaged(seen: Tensor) -> Tensor:
    """`statistics` of a part, (N, SEEN): means and spreads of luma and chroma, then the norms of their detail."""
    norms = seen[:, :NORMS].exp().mean(dim=(2, 3)).log()
    mean, square = seen[:, NORMS:].mean(dim=(2, 3)).chunk(2, dim=1)
    return torch.cat([mean, (square - mean**2).clamp(min=1e-8).sqrt(), norms], dim=1)
