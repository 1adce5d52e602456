"""Restoration in one step of a latent diffusion network: what OSDFace, HYPIR, SDFace and TSD-SR have in common.

They differ in the network and the point of its schedule at which it is asked, in how the clean latent follows from the
answer, and in what the network is told beside the picture. Tensors in, tensors out: knows neither faces nor files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tasks.models.diffusion import latents
from tasks.models.diffusion.noise import NoiseSource
from tasks.models.diffusion.schedules import diffusion_of
from tasks.models.diffusion.tiling import Tiling, Window


@dataclass(frozen=True)
class Step:
    """Where the network is asked, and the clean latent: `keep`·latent − `remove`·answer."""

    timestep: int
    keep: float
    remove: float

    def clean(self, latent: Tensor, answer: Tensor) -> Tensor:
        """Computed in float64: `keep` and `remove` are large, and of opposite effect."""
        return (self.keep * latent.double() - self.remove * answer.double()).to(latent.dtype)


def from_noise(timestep: int) -> Step:
    """The step of a network of Stable Diffusion's schedule that answers with the noise in the latent."""
    kept = float(diffusion_of("v2").alphas_cumprod[timestep])
    return Step(timestep, kept**-0.5, ((1 - kept) / kept) ** 0.5)


@dataclass(frozen=True)
class Tiles:
    """How large pictures are cut: for the encoder in image pixels, for the network and the decoder in latent ones."""

    encoder: Tiling | None = None
    network: Tiling | None = None
    decoder: Tiling | None = None


WHOLE = Tiles()


class FixedPrompt(nn.Module):
    """The same words for every picture: their embedding, (1, L, D)."""

    def __init__(self, embedding: Tensor) -> None:
        super().__init__()
        self.embedding: Tensor
        self.register_buffer("embedding", embedding, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.embedding.expand(len(images), -1, -1)


class OneStep(nn.Module):
    """A denoising network, an autoencoder, and what makes a prompt (N, L, D) of pictures (N, 3, H, W) in [0, 1]."""

    def __init__(self, network: Any, vae: Any, prompt: nn.Module, step: Step) -> None:
        super().__init__()
        self.network, self.vae, self.prompt, self.step = network, vae, prompt, step

    @torch.inference_mode()
    def restore(self, images: Tensor, noise: NoiseSource, tiles: Tiles = WHOLE) -> Tensor:
        """Restores images of one size: (N, 3, H, W) in [0, 1] to the same, fp32, not clamped.

        `noise` is asked once for the latents (once a tile), which are a sample of the autoencoder's. Sides that are no
        multiples of 8 are extended by their border pixels and cut again.
        """
        padded = latents.pad_to_multiple(images * 2 - 1, latents.FACTOR, mode="replicate")
        latent = self.encode(padded, noise, tiles.encoder)
        decoded = self.decode(self.denoise(latent, self.prompt(images), tiles.network), tiles.decoder)
        return decoded[..., : images.shape[-2], : images.shape[-1]] * 0.5 + 0.5

    def encode(self, images: Tensor, noise: NoiseSource, tiling: Tiling | None = None) -> Tensor:
        """Sampled, scaled latents (N, C, H/8, W/8), fp32, of images in [-1, 1]."""

        def sampled(part: Tensor) -> Tensor:
            posterior = self.vae.encode(part.to(self.vae.dtype)).latent_dist
            drawn = noise(tuple(posterior.mean.shape)).to(posterior.mean.device)
            sample: Tensor = posterior.mean.float() + posterior.std.float() * drawn
            return sample

        scaled: Tensor = _in_tiles(sampled, images, tiling, 1 / latents.FACTOR) * self.vae.config.scaling_factor
        return scaled

    def denoise(self, latent: Tensor, prompt: Tensor, tiling: Tiling | None = None) -> Tensor:
        """The clean latent, fp32."""
        told = prompt.to(self.network.dtype)
        answer = _in_tiles(lambda part: self.answer(part, told).float(), latent, tiling)
        return self.step.clean(latent, answer)

    def decode(self, latent: Tensor, tiling: Tiling | None = None) -> Tensor:
        """Images (N, 3, 8h, 8w) around [-1, 1], fp32, not clamped, from scaled latents."""
        unscaled = (latent / self.vae.config.scaling_factor).to(self.vae.dtype)
        return _in_tiles(lambda part: latents.decode(self.vae, part).float(), unscaled, tiling, latents.FACTOR)

    def answer(self, latent: Tensor, prompt: Tensor) -> Tensor:
        """What the network says of a scaled latent (N, C, h, w)."""
        told: Tensor = self.network(latent.to(self.network.dtype), self.times(latent), prompt, return_dict=False)[0]
        return told

    def times(self, latent: Tensor) -> Tensor:
        """The step's time for every latent, (N,)."""
        return torch.full((len(latent),), self.step.timestep, device=latent.device)


def _in_tiles(function: Callable[[Tensor], Tensor], x: Tensor, tiling: Tiling | None, scale: float = 1.0) -> Tensor:
    if tiling is None or not tiling.cuts(x):
        return function(x)

    def on_window(part: Tensor, _: Window) -> Tensor:
        return function(part)

    return tiling.apply(on_window, x, scale)
