"""Restoration guidance: pulls each predicted clean image towards the condition.

Lin et al., "DiffBIR" (ECCV 2024), section 3.3. The released code keeps the formulas and no longer calls them; here
they act between the prediction and the next step of the `spaced` sampler. Knows no sampler and no network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, interpolate, pad

GRADIENT_SCALE = 3000.0
_LUMA = (0.2989, 0.5870, 0.1140)
_SOBEL = ((1.0, 0.0, -1.0), (2.0, 0.0, -2.0), (1.0, 0.0, -1.0))


@dataclass(frozen=True)
class RestorationGuidance:
    """How hard and when to pull.

    `scale` 0 or more (the paper's s); acts at time steps t with `stop` < t + 1 < `start`, `repeat` times each; in
    the space of `latent`s or of decoded `rgb` images; `weighted` spares edges (rgb only).
    """

    scale: float
    start: int = 1001
    stop: int = -1
    space: Literal["latent", "rgb"] = "latent"
    repeat: int = 1
    weighted: bool = False

    def __post_init__(self) -> None:
        if self.weighted and self.space != "rgb":
            raise ValueError("weighted restoration guidance finds edges in images: set space to 'rgb'")

    def acts_at(self, timestep: float) -> bool:
        """Says whether this step is guided."""
        return self.scale > 0 and self.stop < timestep + 1 < self.start

    def weights(self, target: Tensor) -> Tensor:
        """How much each pixel counts: 1, or near 0 along edges when `weighted`; `target` (N, 3, H, W) in [-1, 1]."""
        if not self.weighted:
            return torch.ones_like(target[:, :1])
        return 1 - _edges((target + 1) / 2)

    def gradient(self, target: Tensor, predicted: Tensor) -> Tensor:
        """The step against the gradient of the mean weighted squared distance; all (N, C, H, W)."""
        count = predicted[0].numel()
        return (target - predicted) * self.weights(target) * (2 * GRADIENT_SCALE * self.scale / count)

    def adjust(self, x0: Tensor, target: Tensor, rescale: float, decode: Callable[[Tensor], Tensor] | None) -> Tensor:
        """Moves the predicted clean latent towards `target`, which lies in the space of this guidance.

        `decode` turns a latent into an image in [-1, 1] where the space is `rgb`; `rescale` undoes the weight that
        the sampler will give to x0.
        """
        for _ in range(self.repeat):
            step = self.gradient(target, x0) if decode is None else self._through(decode, x0, target)
            x0 = x0 + rescale * step
        return x0

    def _through(self, decode: Callable[[Tensor], Tensor], x0: Tensor, target: Tensor) -> Tensor:
        with torch.inference_mode(mode=False), torch.enable_grad():
            latent = x0.clone().requires_grad_(True)
            image = decode(latent)
            (step,) = torch.autograd.grad(image, latent, self.gradient(target.clone(), image.detach()))
        return step


def _edges(image: Tensor) -> Tensor:
    """tanh of the Sobel magnitude summed over blocks of 2x2 pixels, (N, 1, H, W) for even H and W."""
    luma = (image * image.new_tensor(_LUMA)[:, None, None]).sum(1, keepdim=True)
    across = image.new_tensor(_SOBEL)
    kernels = torch.stack([across, across.T])[:, None]
    slopes = conv2d(pad(luma, (1, 1, 1, 1), mode="replicate"), kernels)
    magnitude = slopes.square().sum(1, keepdim=True).sqrt()
    return interpolate(torch.tanh(4 * avg_pool2d(magnitude, 2)), scale_factor=2, mode="nearest")
