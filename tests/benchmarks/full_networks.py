"""The networks of MPSR at their published size, or tiny, with random weights: what they cost, not what they paint.

Needs torch, diffusers, transformers, peft and spandrel, nothing of Prefect or Ray.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))
sys.path.insert(0, str(Path(__file__).parents[2]))

from tasks.models.diffusion.diffbir import DiffBIR
from tasks.models.diffusion.ir_controlnet import IRControlNet
from tasks.models.diffusion.pisa_sr import PiSASR
from tasks.models.diffusion.schedules import Version
from tasks.models.restorers.face_tone_net import FaceToneNet
from tasks.models.restorers.ffa_net import FFANet

CONTEXT = 1024
UNET: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280, 1280),
    "attention_head_dim": (5, 10, 20, 20),
    "cross_attention_dim": CONTEXT,
    "use_linear_projection": True,
}
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
TINY_UNET = UNET | {"block_out_channels": (32, 32, 64, 64), "attention_head_dim": (2, 2, 4, 4)}
TINY_VAE = VAE | {"block_out_channels": (32, 32, 32, 32), "layers_per_block": 1}


def filled(build: Callable[[], nn.Module], device: str) -> Any:
    """Builds a network straight on `device` and fills it with small random numbers."""
    with torch.device("meta"):
        model = build()
    model = model.to_empty(device=device).requires_grad_(False).eval()
    for value in [*model.parameters(), *model.buffers()]:
        if value.is_floating_point():
            fill(value)
    return model


def fill(value: Tensor) -> None:
    """Numbers of a size that keeps signals neither dying nor exploding."""
    if value.ndim < 2:
        value.fill_(1.0 if value.ndim == 1 else 0.1)
    else:
        value.normal_(0, 0.5 * max(1, value[0].numel()) ** -0.5)


def diffbir(version: Version, device: str, tiny: bool) -> DiffBIR:
    """DiffBIR with two random prompt embeddings."""
    unet, vae = (TINY_UNET, TINY_VAE) if tiny else (UNET, VAE)
    positive, negative = (torch.randn(1, 77, CONTEXT, device=device) for _ in range(2))
    return DiffBIR(
        filled(lambda: UNet2DConditionModel(**unet), device),
        filled(lambda: IRControlNet(in_channels=8, **unet), device),
        filled(lambda: AutoencoderKL(**vae), device),
        positive,
        negative,
        version,
    )


def pisa_sr(device: str, tiny: bool) -> PiSASR:
    """PiSA-SR in its default mode (LoRAs merged: they add nothing to the cost)."""
    unet, vae = (TINY_UNET, TINY_VAE) if tiny else (UNET, VAE)
    return PiSASR(
        filled(lambda: UNet2DConditionModel(**unet), device),
        filled(lambda: AutoencoderKL(**vae), device),
        torch.randn(1, 77, CONTEXT, device=device),
    )


def ffa_net(device: str, tiny: bool) -> nn.Module:
    """FFA-Net, 3 groups of 19 blocks."""
    network: nn.Module = filled(lambda: FFANet(blocks=1) if tiny else FFANet(), device)
    return network


def face_tone_net(device: str, tiny: bool) -> nn.Module:
    """FaceToneNet."""
    network: nn.Module = filled(lambda: FaceToneNet(width=4) if tiny else FaceToneNet(), device)
    return network


def gfpgan(device: str) -> nn.Module:
    """GFPGAN; spandrel builds it at full size only."""
    from spandrel.architectures.GFPGAN import GFPGAN

    network: nn.Module = filled(GFPGAN, device)
    return network
