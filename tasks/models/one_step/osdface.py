"""OSDFace: one step of Stable Diffusion 2.1 base that is told what it sees by codes of the damaged face itself.

Wang et al., "OSDFace: One-Step Diffusion Model for Face Restoration" (CVPR 2025), repository jkwang28/OSDFace. Tensors
in, tensors out: knows neither faces nor files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from diffusers.models.autoencoders.vae import Encoder
from torch import Tensor, nn
from torch.nn.functional import interpolate, silu

from tasks.models.one_step import lora
from tasks.models.one_step.one_step import OneStep, from_noise
from tasks.models.stable_diffusion.checkpoint import CheckpointError, StateDict
from tasks.models.stable_diffusion.convert import Source, attention_as_linear, build_on_meta, load_sd_components

TIMESTEP = 399
SIDE = 512
WORDS = 77
"""Codes that make a prompt: as many as Stable Diffusion takes words."""
PREFIX = "vqvae_LQ."
_NAMES = (
    (r"\bdown\.(\d+)\.block\.", r"down_blocks.\1.resnets."),
    (r"\bdown\.(\d+)\.attn\.", r"down_blocks.\1.attentions."),
    (r"\bdown\.(\d+)\.downsample\.", r"down_blocks.\1.downsamplers.0."),
    (r"\bmid\.block_1\.", "mid_block.resnets.0."),
    (r"\bmid\.block_2\.", "mid_block.resnets.1."),
    (r"\bmid\.attn_1\.", "mid_block.attentions.0."),
    (r"\bnin_shortcut\b", "conv_shortcut"),
    (r"\bnorm_out\b", "conv_norm_out"),
    (r"(attentions\.\d+)\.norm1\b", r"\1.group_norm"),
    (r"(attentions\.\d+)\.(q|k|v)\b", r"\1.to_\2"),
    (r"(attentions\.\d+)\.proj_out\b", r"\1.to_out.0"),
)
"""Names of the published encoder, and the same in diffusers."""


class VisualPrompt(nn.Module):
    """Turns faces (N, 3, H, W) in [0, 1] into prompts (N, 77, D) of codes that they show most clearly."""

    def __init__(self, encoder: nn.Module, quant_conv: nn.Module, codes: Tensor, change: nn.Module) -> None:
        super().__init__()
        self.codes: Tensor
        self.encoder, self.quant_conv, self.change = encoder, quant_conv, change
        self.register_buffer("codes", codes)

    def forward(self, faces: Tensor) -> Tensor:
        features = self.features(faces)
        words = torch.stack([self.words(each) for each in features])
        changed: Tensor = self.change(words.mT).mT
        return changed

    def features(self, faces: Tensor) -> Tensor:
        """What the encoder sees at 256 positions, (N, 256, C).

        The released code centres faces twice, so the encoder sees them in [-3, 1].
        """
        twice = (faces * 2 - 1) * 2 - 1
        sized = interpolate(twice, (SIDE, SIDE), mode="bilinear", align_corners=False).to(self.codes.dtype)
        features: Tensor = self.quant_conv(self.encoder(sized))
        return features.flatten(2).mT

    def nearest(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The distance of each position (P, C) to its nearest code, squared and in float64, and which code that is."""
        given, codes = features.double(), self.codes.double()
        squares = given.square().sum(1, keepdim=True) + codes.square().sum(1) - 2 * given @ codes.T
        smallest = squares.min(dim=1)
        return smallest.values, smallest.indices

    def chosen(self, features: Tensor) -> list[int]:
        """The codes that are kept, the most certain first, each once; no more than 77."""
        distances, codes = self.nearest(features)
        return list(dict.fromkeys(codes[distances.argsort(stable=True)].tolist()))[:WORDS]

    def words(self, features: Tensor) -> Tensor:
        """The codes' rows (77, C); where a face shows fewer, the rest is zero, as the network was trained."""
        rows = self.codes[self.chosen(features)]
        return torch.cat([rows, rows.new_zeros(WORDS - len(rows), rows.shape[1])])


class EmbeddingChange(nn.Module):
    """Two layers between the codes' space and that of words, (N, C, 77) → (N, D, 77)."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(inputs, hidden, 1), nn.Conv1d(hidden, outputs, 1)

    def forward(self, words: Tensor) -> Tensor:
        return silu(self.conv2(silu(self.conv1(words))))


def load_osdface(
    base: Source,
    changes: Mapping[str, Tensor],
    codes: Mapping[str, Tensor],
    change: Mapping[str, Tensor],
    dtype: torch.dtype = torch.float32,
) -> OneStep:
    """Builds OSDFace from the weights of Stable Diffusion 2.1 base and its three files: `pytorch_lora_weights`,
    `associate_2` and `embedding_change_weights`. The prompt stays in float32: it depends on which code is nearest.

    Raises CheckpointError where one is not what it should be.
    """
    parts = load_sd_components(base, parts=("unet", "vae"))
    lora.merge(parts.unet, {key.removeprefix("unet."): value for key, value in changes.items()}, "OSDFace's LoRA")
    prompt = build_prompt(codes, change)
    return OneStep(parts.unet.to(dtype), parts.vae.to(dtype), prompt, from_noise(TIMESTEP)).eval()


def build_prompt(codes: Mapping[str, Tensor], change: Mapping[str, Tensor]) -> VisualPrompt:
    """The prompt's networks from `associate_2` (the rest of that training is left out) and the embedding change.

    Raises CheckpointError where either is not what it should be.
    """
    own = {key.removeprefix(PREFIX): value.float() for key, value in codes.items() if key.startswith(PREFIX)}
    read = {_renamed(key): value for key, value in own.items() if key.startswith("encoder.") and _is_read(key)}
    state = attention_as_linear(read)
    try:
        book, weight = own["quantize.embedding.weight"], own["quant_conv.weight"]
        projection = {"weight": weight, "bias": own["quant_conv.bias"]}
        sizes = change["conv1.weight"].shape[1], change["conv1.weight"].shape[0], change["conv2.weight"].shape[0]
    except KeyError as error:
        raise CheckpointError(f"OSDFace's codes: expected keys such as {PREFIX}…, but {error} is missing") from error
    encoder = build_on_meta(lambda: _encoder(state), state, "OSDFace's encoder", torch.float32)
    joined = build_on_meta(
        lambda: nn.Conv2d(weight.shape[1], weight.shape[0], 1), projection, "OSDFace's codes", torch.float32
    )
    changing = build_on_meta(lambda: EmbeddingChange(*sizes), dict(change), "OSDFace's embedding change", torch.float32)
    return VisualPrompt(encoder, joined, book, changing)


def _encoder(state: StateDict) -> nn.Module:
    levels = len({key.split(".")[1] for key in state if key.startswith("down_blocks.")})
    widths = [state[f"down_blocks.{level}.resnets.0.conv1.weight"].shape[0] for level in range(levels)]
    encoder: nn.Module = Encoder(
        out_channels=state["conv_out.weight"].shape[0],
        down_block_types=("DownEncoderBlock2D",) * (levels - 1) + ("AttnDownEncoderBlock2D",),
        block_out_channels=widths,
        layers_per_block=2,
        double_z=False,
    )
    return encoder


def _is_read(key: str) -> bool:
    """The attention's second normalisation is for another input, which OSDFace has not."""
    return re.search(r"attn(\.\d+|_1)\.norm2\.", key) is None


def _renamed(key: str) -> str:
    key = key.removeprefix("encoder.")
    for old, new in _NAMES:
        key = re.sub(old, new, key)
    return key
