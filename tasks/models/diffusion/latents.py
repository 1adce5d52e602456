"""Between images and the latents of Stable Diffusion's autoencoder, whole or in tiles.

In tiles the autoencoder normalises and attends within each window, so its result is close to the whole one and not
equal to it.
"""

from __future__ import annotations

from typing import Any

from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor
from torch.nn.functional import pad

from tasks.models.diffusion.tiling import Tiling

FACTOR = 8
"""Image pixels to a latent pixel."""


def encode(vae: Any, images: Tensor, tiling: Tiling | None = None) -> Any:
    """The distribution of the latents of `images`, (N, 3, H, W) in [-1, 1]; not scaled.

    H and W are multiples of 8; `tiling` counts image pixels, its size and stride are multiples of 8 too. The result
    has `.mean` and `.std`, (N, 4, H/8, W/8).
    """
    if tiling is None or not tiling.cuts(images):
        return vae.encode(images).latent_dist
    moments = tiling.apply(lambda part, _: vae.encode(part).latent_dist.parameters, images, 1 / FACTOR)
    return DiagonalGaussianDistribution(moments)


def decode(vae: Any, latents: Tensor, tiling: Tiling | None = None) -> Tensor:
    """Images (N, 3, 8h, 8w) around [-1, 1], not clamped, from unscaled latents (N, 4, h, w).

    `tiling` counts latent pixels.
    """
    if tiling is None or not tiling.cuts(latents):
        image: Tensor = vae.decode(latents, return_dict=False)[0]
        return image
    return tiling.apply(lambda part, _: vae.decode(part, return_dict=False)[0], latents, FACTOR)


def pad_to_multiple(x: Tensor, multiple: int, mode: str = "constant") -> Tensor:
    """Extends (N, C, H, W) to the right and below: with zeros, or with its border pixels (`replicate`)."""
    return pad(x, (0, -x.shape[-1] % multiple, 0, -x.shape[-2] % multiple), mode=mode)
