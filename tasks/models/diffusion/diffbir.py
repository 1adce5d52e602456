"""DiffBIR's second stage: a diffusion network that paints plausible detail onto a cleaned image.

Lin et al., "DiffBIR: Toward Blind Image Restoration with Generative Diffusion Prior" (ECCV 2024), repository
XPixelGroup/DiffBIR, versions v1, v2 and v2.1. Tensors in, tensors out: knows neither files, prompts nor faces.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tasks.models.diffusion import clip_prompts, latents, stored_prompts
from tasks.models.diffusion.color_fix import wavelet_reconstruction
from tasks.models.diffusion.guidance import RestorationGuidance
from tasks.models.diffusion.ir_controlnet import IRControlNet, load_ir_controlnet
from tasks.models.diffusion.noise import NoiseSource
from tasks.models.diffusion.samplers import SAMPLERS, AdjustX0, Predict, Problem, SamplerSettings
from tasks.models.diffusion.schedules import TRAINING_STEPS, Version, diffusion_of
from tasks.models.diffusion.tiling import Tiling, Window
from tasks.models.stable_diffusion.convert import Source, load_sd_components

UNET_MULTIPLE = 64
"""The UNet halves a latent three times, the autoencoder halved the image as often before."""


@dataclass(frozen=True)
class DiffBIRSettings:
    """What one restoration does; the defaults are those of MPSR's released configuration.

    `steps` 2 to 1000; `strength` scales the ControlNet's influence (0: none, 1: as trained); `noise_aug` 0 to 999
    blurs the condition with noise of that time step; `start_point` is pure noise or the noised condition;
    `tile`, `tile_stride` and `vae_tile` are in image pixels, multiples of 64, 0 for no tiles.
    """

    sampler: str = "spaced"
    steps: int = 50
    sampling: SamplerSettings = field(default_factory=SamplerSettings)
    strength: float = 1.0
    noise_aug: int = 0
    start_point: Literal["noise", "cond"] = "noise"
    guidance: RestorationGuidance | None = None
    tile: int = 0
    tile_stride: int = 256
    vae_tile: int = 0

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ValueError(f"expected a sampler out of {', '.join(SAMPLERS)}; got {self.sampler!r}")
        if not 0 <= self.noise_aug < TRAINING_STEPS:
            raise ValueError(f"expected noise_aug from 0 to {TRAINING_STEPS - 1}, got {self.noise_aug}")
        if self.guidance is not None and self.sampler != "spaced":
            raise ValueError(f"restoration guidance works with the sampler 'spaced' only, not {self.sampler!r}")
        for name in ("tile", "tile_stride", "vae_tile"):
            if getattr(self, name) % 64:
                raise ValueError(f"expected {name} to be a multiple of 64 pixels, got {getattr(self, name)}")
        if self.tile and not 0 < self.tile_stride <= self.tile:
            raise ValueError(f"expected tile_stride from 64 to the tile's {self.tile} pixels, got {self.tile_stride}")


class DiffBIR(nn.Module):
    """UNet, ControlNet and autoencoder of DiffBIR with two prompt embeddings, (1 or N, 77, D) each.

    fp32 as released for v2; `cast` gives the mixed precision of the released v2.1, `.to(dtype)` makes the networks
    bf16 or fp16 throughout. Latents between the steps stay fp32 in every case. Ten steps of a random network drift
    from fp32 by 1.1 % in bf16 and 0.12 % in fp16, the same in both ways.
    """

    def __init__(
        self, unet: Any, controlnet: IRControlNet, vae: Any, positive: Tensor, negative: Tensor, version: Version
    ) -> None:
        super().__init__()
        self.positive: Tensor
        self.negative: Tensor
        self.unet, self.controlnet, self.vae = unet, controlnet, vae
        self.register_buffer("positive", positive, persistent=False)
        self.register_buffer("negative", negative, persistent=False)
        self.diffusion = diffusion_of(version)
        self.autocast_dtype: torch.dtype | None = None

    def cast(self, dtype: torch.dtype) -> DiffBIR:
        """Casts the blocks of both networks to fp16 or bf16 and runs everything under autocast.

        Norms, time embedding, the UNet's output and the autoencoder stay fp32, as in the released code.
        """
        for network in (self.unet, self.controlnet):
            for name, block in network.named_children():
                if name not in ("time_embedding", "conv_norm_out", "conv_out"):
                    block.to(dtype)
            for module in network.modules():
                if isinstance(module, nn.GroupNorm):
                    module.float()
        self.autocast_dtype = dtype
        return self

    @torch.inference_mode()
    def restore(
        self, condition: Tensor, settings: DiffBIRSettings, noise: NoiseSource, positive: Tensor | None = None
    ) -> Tensor:
        """Restores images of one size: (N, 3, H, W) in [0, 1] to the same, not clamped.

        `noise` is asked for the start, then for the condition's augmentation, then for every step of the sampler;
        `positive` replaces the prompt embedding, for captions. The condition's broad colours are kept (wavelet).
        The released code wants both sides to be at least 512.
        """
        with self._precision(condition.device):
            padded = latents.pad_to_multiple(condition, _multiple(condition, settings.tile))
            encoded = self.encode_condition(padded, _tiling(settings.vae_tile, settings.vae_tile // 2))
            text = self.positive if positive is None else positive
            latent = self._sample(encoded, padded * 2 - 1, settings, noise, text)
            image = self.decode(latent, _tiling(settings.vae_tile // 8, settings.vae_tile // 16))
        height, width = condition.shape[-2:]
        return wavelet_reconstruction((image[..., :height, :width] + 1) / 2, condition)

    def encode_condition(self, condition: Tensor, tiling: Tiling | None = None) -> Tensor:
        """The latent (N, 4, H/8, W/8), fp32, scaled, of an image (N, 3, H, W) in [0, 1]: the mode, not a sample."""
        moments = latents.encode(self.vae, (condition * 2 - 1).to(self.vae.dtype), tiling)
        mode: Tensor = moments.mean.float() * self.vae.config.scaling_factor
        return mode

    def decode(self, latent: Tensor, tiling: Tiling | None = None) -> Tensor:
        """Images (N, 3, 8h, 8w) around [-1, 1], fp32, from scaled latents."""
        return latents.decode(self.vae, (latent / self.vae.config.scaling_factor).to(self.vae.dtype), tiling).float()

    def network(self, x: Tensor, timestep: Tensor, text: Tensor, condition: Tensor, strength: float) -> Tensor:
        """One call of ControlNet and UNet: noise or velocity, (N, 4, h, w) fp32, without guidance."""
        dtype = self.unet.conv_in.weight.dtype
        x, text, condition = x.to(dtype), text.to(dtype), condition.to(dtype)
        skips, middle = self.controlnet(x, timestep, text, condition, strength)
        output: Tensor = self.unet(
            x,
            timestep,
            text,
            down_block_additional_residuals=skips,
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0]
        return output.float()

    def predictor(
        self,
        condition: Tensor,
        positive: Tensor,
        negative: Tensor,
        cfg_scale: float,
        strength: float,
        tiling: Tiling | None,
    ) -> Predict:
        """What a sampler asks: the network with classifier-free guidance, both halves in one forward.

        `cfg_scale` 1 leaves the negative prompt out altogether; `tiling` (latent pixels) blends at every step.
        """
        guided, count = cfg_scale != 1.0, len(condition)
        text = _expand(positive, count)
        if guided:
            text, condition = torch.cat([_expand(negative, count), text]), condition.repeat(2, 1, 1, 1)

        def run(x: Tensor, timestep: Tensor, place: Window | None) -> Tensor:
            here = condition if place is None else place.crop(condition)
            return self.network(x, timestep.expand(len(x)), text, here, strength)

        def predict(x: Tensor, timestep: Tensor, scale: float) -> Tensor:
            doubled = x.repeat(2, 1, 1, 1) if guided else x
            if tiling is not None and tiling.cuts(x):
                output = tiling.apply(lambda part, place: run(part, timestep, place), doubled)
            else:
                output = run(doubled, timestep, None)
            if not guided:
                return output
            unconditional, conditional = output.chunk(2)
            return unconditional + scale * (conditional - unconditional)

        return predict

    def _sample(
        self, encoded: Tensor, target: Tensor, settings: DiffBIRSettings, noise: NoiseSource, positive: Tensor
    ) -> Tensor:
        shape, sampler = tuple(encoded.shape), SAMPLERS[settings.sampler]

        def draw() -> Tensor:
            return noise(shape).to(encoded.device)

        start = draw()
        if settings.start_point == "cond":
            start = self._noised(encoded, TRAINING_STEPS - 1, start)
        condition = self._noised(encoded, settings.noise_aug, draw()) if settings.noise_aug > 0 else encoded
        draws = sampler.draws(settings.steps, settings.sampling)
        step_noise = torch.stack([noise(shape) for _ in range(draws)]) if draws else torch.empty(0)
        tiling = _tiling(settings.tile // 8, settings.tile_stride // 8)
        predict = self.predictor(
            condition, positive, self.negative, settings.sampling.cfg_scale, settings.strength, tiling
        )
        problem = Problem(
            diffusion=self.diffusion,
            predict=predict,
            start=start,
            noise=step_noise.to(encoded.device),
            settings=settings.sampling,
            adjust_x0=self._guide(settings.guidance, encoded, target),
        )
        return sampler.solve(problem, settings.steps)

    def _guide(self, guidance: RestorationGuidance | None, encoded: Tensor, target: Tensor) -> AdjustX0 | None:
        if guidance is None:
            return None
        goal, decode = (target, self.decode) if guidance.space == "rgb" else (encoded, None)

        def adjust(x0: Tensor, timestep: float, rescale: float) -> Tensor:
            return guidance.adjust(x0, goal, rescale, decode) if guidance.acts_at(timestep) else x0

        return adjust

    def _noised(self, latent: Tensor, timestep: int, noise: Tensor) -> Tensor:
        alpha = float(self.diffusion.alphas_cumprod[timestep])
        return math.sqrt(alpha) * latent + math.sqrt(1 - alpha) * noise

    def _precision(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        if self.autocast_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(device.type, self.autocast_dtype)


def load_diffbir(
    base: Source,
    controlnet: Mapping[str, Tensor],
    version: Version,
    positive: str = stored_prompts.EMPTY,
    negative: str = stored_prompts.MPSR_NEGATIVE,
    tokenizer: Path | None = None,
) -> DiffBIR:
    """Builds DiffBIR from the weights of Stable Diffusion 2.1 (the zero-SNR one for v2.1) and of an IRControlNet.

    The prompts are embedded once and the text encoder is dropped; prompts without stored ids need the folder
    `tokenizer`. Raises `CheckpointError` where weights are not what they should be.
    """
    text_encoder = load_sd_components(base, parts=("text_encoder",)).text_encoder
    prompts = clip_prompts.embed(text_encoder, [positive, negative], tokenizer)
    del text_encoder
    parts = load_sd_components(base, parts=("unet", "vae"))
    control = load_ir_controlnet(controlnet)
    return DiffBIR(parts.unet, control, parts.vae, prompts[:1], prompts[1:], version).eval()


def _multiple(condition: Tensor, tile: int) -> int:
    """Tiles are multiples of 64 themselves, so what is cut into them need only suit the autoencoder."""
    return latents.FACTOR if 0 < tile <= min(condition.shape[-2:]) else UNET_MULTIPLE


def _tiling(size: int, stride: int) -> Tiling | None:
    return Tiling(size, stride) if size else None


def _expand(text: Tensor, count: int) -> Tensor:
    return text.expand(count, -1, -1)
