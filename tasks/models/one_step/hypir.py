"""HYPIR: one step of Stable Diffusion 2.1 base that was trained from it as a restorer of whole photographs.

Lin et al., "Harnessing Diffusion-Yielded Score Priors for Image Restoration" (SIGGRAPH Asia 2025), repository
XPixelGroup/HYPIR. Tensors in, tensors out: knows neither faces nor files.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tasks.models.diffusion import clip_prompts, stored_prompts
from tasks.models.diffusion.tiling import Tiling, diffbir_mask
from tasks.models.one_step import lora
from tasks.models.one_step.one_step import FixedPrompt, OneStep, Tiles, from_noise
from tasks.models.stable_diffusion.convert import Source, load_sd_components

TIMESTEP = 200
ADAPTED = (
    *("to_k", "to_q", "to_v", "to_out.0", "conv", "conv1", "conv2", "conv_shortcut", "conv_out"),
    *("proj_in", "proj_out", "ff.net.2", "ff.net.0.proj"),
)
"""What the LoRA changes: 257 modules of the published size."""


def load_hypir(base: Source, weights: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> OneStep:
    """Builds HYPIR from the weights of Stable Diffusion 2.1 base and those of `HYPIR_sd2.pth`, asked with no words.

    Raises CheckpointError where either is not what it should be.
    """
    parts = load_sd_components(base)
    lora.merge(parts.unet, weights, "HYPIR's LoRA", lora.adapted(parts.unet, ADAPTED))
    prompt = FixedPrompt(clip_prompts.embed(parts.text_encoder, [stored_prompts.EMPTY]))
    return OneStep(parts.unet, parts.vae, prompt, from_noise(TIMESTEP)).to(dtype).eval()


def tiles(side: int, stride: int) -> Tiles:
    """The cuts of the released code, `side` and `stride` in image pixels (512 and 256 there).

    Its sums are kept in float32 here, and in bfloat16 there, which shows as seams of one level.
    """
    latent = Tiling(side // 8, stride // 8, diffbir_mask)
    return Tiles(Tiling(side, stride, diffbir_mask), latent, latent)
