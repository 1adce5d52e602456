"""IRControlNet, the condition network of DiffBIR, as a thin ControlNet of diffusers.

Lin et al., "DiffBIR: Toward Blind Image Restoration with Generative Diffusion Prior" (ECCV 2024), repository
XPixelGroup/DiffBIR. The condition is a latent that is stacked on the noisy one, so there is no hint encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import ControlNetModel
from torch import Tensor, nn

from tasks.models.stable_diffusion import keys as sd_keys
from tasks.models.stable_diffusion.convert import attention_levels, build_on_meta, convert_keys, ldm_encoder_config


class _NoHint(nn.Module):
    """Stands where diffusers expects a hint encoder, whose output it adds to the first features."""

    def forward(self, condition: Tensor) -> Tensor:
        return condition.new_zeros(())


class IRControlNet(ControlNetModel):  # type: ignore[misc]  # diffusers is untyped
    """A ControlNet whose input is the noisy latent with the condition latent stacked on it (8 channels)."""

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.controlnet_cond_embedding = _NoHint()

    def forward(
        self, sample: Tensor, timestep: Tensor, text: Tensor, condition: Tensor, strength: float = 1.0
    ) -> tuple[list[Tensor], Tensor]:
        """Returns what to add to the UNet's skips (12 at full depth) and to its middle, times `strength`.

        `sample`, `condition`: (N, 4, h, w); `timestep`: (N,); `text`: (N, 77, D).
        """
        stacked = torch.cat([sample, condition], dim=1)
        skips, middle = super().forward(
            stacked, timestep, text, controlnet_cond=condition, conditioning_scale=strength, return_dict=False
        )
        return list(skips), middle


def load_ir_controlnet(state: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> IRControlNet:
    """From the weights of `v1_face.pth`, `v2.pth` or `DiffBIR_v2.1.pt`; raises `CheckpointError` for any other."""
    config = ldm_encoder_config(dict(state))
    modules = sd_keys.controlnet_modules(attention_levels(config), config["layers_per_block"])
    weights = convert_keys(dict(state), modules, "controlnet")
    return build_on_meta(lambda: IRControlNet(**config), weights, "controlnet", dtype)
