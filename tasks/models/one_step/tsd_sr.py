"""TSD-SR: one step of Stable Diffusion 3 for super-resolution; the second stage of team AIIA's entry.

Dong et al., "TSD-SR: One-Step Diffusion with Target Score Distillation for Real-World Image Super-Resolution"
(CVPR 2025), repository Microtreei/TSD-SR. Tensors in, tensors out: knows neither faces nor files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from torch import Tensor

from tasks.models.one_step import lora
from tasks.models.one_step.one_step import FixedPrompt, OneStep, Step
from tasks.models.stable_diffusion.convert import DiffusersCopy, build_on_meta

STEP = Step(timestep=1000, keep=1, remove=1)
ADAPTED = ("to_k", "to_q", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "proj", "linear", "proj_out")
PREFIX = "transformer."
"""What the names in both LoRA files begin with, the autoencoder's too."""


class TsdSr(OneStep):
    """Stable Diffusion 3's transformer takes a pooled prompt (1, D) beside the words.

    Its autoencoder's shift is never applied, as in the released code: the network was trained so.
    """

    def __init__(self, network: Any, vae: Any, prompt: FixedPrompt, pooled: Tensor) -> None:
        super().__init__(network, vae, prompt, STEP)
        self.pooled: Tensor
        self.register_buffer("pooled", pooled, persistent=False)

    def answer(self, latent: Tensor, prompt: Tensor) -> Tensor:
        """The velocity, which is what the latent holds in excess of the clean one."""
        told: Tensor = self.network(
            hidden_states=latent.to(self.network.dtype),
            timestep=self.times(latent),
            encoder_hidden_states=prompt,
            pooled_projections=self.pooled.expand(len(latent), -1),
            return_dict=False,
        )[0]
        return told


def load_tsd_sr(
    base: DiffusersCopy,
    changes: tuple[Mapping[str, Tensor], Mapping[str, Tensor]],
    prompts: tuple[Tensor, Tensor],
    dtype: torch.dtype = torch.float32,
) -> TsdSr:
    """Builds TSD-SR from Stable Diffusion 3 (its `transformer` and `vae`), the LoRAs of both, and the stored prompts
    (1, 333, D) and (1, E). Raises CheckpointError where one is not what it should be."""
    (sizes, weights), (vae_sizes, vae_weights) = base.parts["transformer"], base.parts["vae"]
    whole = {key: value.float() for key, value in weights.items()}
    network = build_on_meta(
        lambda: SD3Transformer2DModel.from_config(sizes), whole, "Stable Diffusion 3", torch.float32
    )
    vae = build_on_meta(lambda: AutoencoderKL.from_config(vae_sizes), vae_weights, "its autoencoder", torch.float32)
    for_network, for_vae = ({key.removeprefix(PREFIX): value for key, value in each.items()} for each in changes)
    lora.merge(network, for_network, "TSD-SR's LoRA", lora.adapted(network, ADAPTED))
    lora.merge(vae, for_vae, "TSD-SR's LoRA of the autoencoder")
    prompt, pooled = (each.to(dtype) for each in prompts)
    return TsdSr(network.to(dtype), vae.to(dtype), FixedPrompt(prompt), pooled).eval()
