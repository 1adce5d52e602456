"""The small quality network of the compact recipe: how far a face is from clean, without its truth.

Tensors only; nothing of recipes, stages or files.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

SCALES = 6
SEEN = 2 * (3 * 3 * SCALES + 3 * 2)


class QualityNet(nn.Module):
    """Maps RGB (N, 3, 512, 512) in [0, 1] to a no-reference score (N,) in [0, 1]; 1 is a clean face.

    It is trained to predict clip((PSNR to the truth − 16) / 26, 0, 1), PSNR in dB. It sees statistics alone.
    """

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.settle = nn.BatchNorm1d(SEEN, affine=False)
        self.score = nn.Sequential(
            nn.Linear(SEEN, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1)
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.judge(statistics(image))

    def judge(self, seen: Tensor) -> Tensor:
        """The score (N,) of pictures with these `statistics` (N, SEEN), in float32 whatever is asked for."""
        with torch.autocast(seen.device.type, enabled=False):
            scored: Tensor = self.score(self.settle(seen.float()))
        return torch.sigmoid(scored).squeeze(1)


@torch.no_grad()
def statistics(image: Tensor) -> Tensor:
    """Tones and detail (N, SEEN) of pictures (N, 3, H, W), H and W of 128 px and more: of the whole and of its middle.

    Means and spreads of luma and chroma; at six scales three norms of their detail, which tell noise from
    edges and edges from blur, in the spirit of natural scene statistics (BRISQUE, Mittal et al. 2012).
    """
    height, width = image.shape[2] // 4, image.shape[3] // 4
    middle = image[:, :, height:-height, width:-width]
    return torch.cat([_described(image.float()), _described(middle.float())], dim=1)


def _described(image: Tensor) -> Tensor:
    luma = image.mean(dim=1, keepdim=True)
    planes = torch.cat([luma, image[:, :1] - luma, image[:, 2:] - luma], dim=1)
    seen = [planes.mean(dim=(2, 3)), planes.std(dim=(2, 3))]
    for _ in range(SCALES):
        coarse = functional.avg_pool2d(planes, 2)
        smooth = functional.interpolate(coarse, size=planes.shape[2:], mode="bilinear", align_corners=False)
        detail = (planes - smooth).abs() + 1e-4
        seen += [detail.mean(dim=(2, 3)).log(), detail.sqrt().mean(dim=(2, 3)).log()]
        seen.append((detail**2).mean(dim=(2, 3)).log())
        planes = coarse
    return torch.cat(seen, dim=1)
