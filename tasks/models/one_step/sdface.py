"""SDFace: SDXL-Turbo in one step that answers with the clean latent itself.

Team IIL, second of the NTIRE 2025 challenge on real-world face restoration (`models/team02_SDFace` of
zhengchen1999/NTIRE2025_RealWorld_Face_Restoration). Tensors in, tensors out: knows neither faces nor files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from tasks.models.one_step import lora
from tasks.models.one_step.one_step import FixedPrompt, OneStep, Step
from tasks.models.stable_diffusion.checkpoint import CheckpointError, StateDict
from tasks.models.stable_diffusion.convert import build_on_meta, heads

STEP = Step(timestep=999, keep=0, remove=-1)
TIME_IDS = (512.0, 512.0, 0.0, 0.0, 512.0, 512.0)
"""The size that the network is told, whatever the picture's."""
SCALING = 0.13025


class SDFace(OneStep):
    """SDXL's UNet takes a pooled prompt (1, D) beside the words, and a size."""

    def __init__(self, network: Any, vae: Any, prompt: FixedPrompt, pooled: Tensor) -> None:
        super().__init__(network, vae, prompt, STEP)
        self.pooled: Tensor
        self.times_of_size: Tensor
        self.register_buffer("pooled", pooled, persistent=False)
        self.register_buffer("times_of_size", torch.tensor([TIME_IDS]), persistent=False)

    def answer(self, latent: Tensor, prompt: Tensor) -> Tensor:
        """The clean latent."""
        count, dtype = len(latent), self.network.dtype
        added = {"text_embeds": self.pooled.expand(count, -1), "time_ids": self.times_of_size.expand(count, -1)}
        told: Tensor = self.network(
            latent.to(dtype), self.times(latent), prompt, added_cond_kwargs=added, return_dict=False
        )[0]
        return told


def load_sdface(
    weights: Mapping[str, Tensor], prompt: Tensor, pooled: Tensor, dtype: torch.dtype = torch.float32
) -> SDFace:
    """Builds SDFace from `net_g_final.pth`, which holds the whole of SDXL-Turbo with its adapters, and from the two
    stored prompts (1, 77, D) and (1, E). Raises CheckpointError where one is not what it should be."""
    unet, vae = (_merged(weights, part) for part in ("unet", "vae"))
    try:
        unet_config = _unet_config(unet, pooled.shape[-1])
        vae_config = _vae_config(vae)
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"expected SDFace's network with keys unet.… and vae.…, but {error}") from error
    return SDFace(
        build_on_meta(lambda: UNet2DConditionModel(**unet_config), unet, "SDFace's UNet", dtype),
        build_on_meta(lambda: AutoencoderKL(**vae_config), vae, "SDFace's autoencoder", dtype),
        FixedPrompt(prompt.to(dtype)),
        pooled.to(dtype),
    ).eval()


def _merged(weights: Mapping[str, Tensor], part: str) -> StateDict:
    own = {key.removeprefix(f"{part}."): value for key, value in weights.items() if key.startswith(f"{part}.")}
    base = {key.replace(".base_layer.", "."): value for key, value in own.items() if not lora.is_lora(key)}
    return lora.merged(base, {key: value for key, value in own.items() if lora.is_lora(key)}, f"SDFace's {part}")


def _unet_config(state: StateDict, pooled: int) -> dict[str, Any]:
    """Sizes of an SDXL UNet, read off its weights."""
    levels = _count(state, "down_blocks")
    widths = [state[f"down_blocks.{level}.resnets.0.conv1.weight"].shape[0] for level in range(levels)]
    depths = [_count(state, f"down_blocks.{level}.attentions.0.transformer_blocks") for level in range(levels)]
    projected = state["add_embedding.linear_1.weight"].shape[1]
    attends = [depth > 0 for depth in depths]
    return {
        "block_out_channels": widths,
        "layers_per_block": _count(state, "down_blocks.0.resnets"),
        "down_block_types": ["CrossAttnDownBlock2D" if each else "DownBlock2D" for each in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if each else "UpBlock2D" for each in reversed(attends)],
        "attention_head_dim": [heads(width) for width in widths],
        "transformer_layers_per_block": [max(1, depth) for depth in depths],
        "cross_attention_dim": state["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"].shape[1],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": (projected - pooled) // len(TIME_IDS),
        "projection_class_embeddings_input_dim": projected,
    }


def _vae_config(state: StateDict) -> dict[str, Any]:
    levels = _count(state, "encoder.down_blocks")
    return {
        "block_out_channels": [
            state[f"encoder.down_blocks.{level}.resnets.0.conv1.weight"].shape[0] for level in range(levels)
        ],
        "layers_per_block": _count(state, "encoder.down_blocks.0.resnets"),
        "latent_channels": state["post_quant_conv.weight"].shape[0],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "scaling_factor": SCALING,
    }


def _count(state: StateDict, stem: str) -> int:
    """How many numbered modules begin with `stem`."""
    place = stem.count(".") + 1
    return len({key.split(".")[place] for key in state if key.startswith(f"{stem}.")})
