"""Builds the networks of Stable Diffusion 2 on diffusers and transformers from the weights that are published.

Takes the original layout (LDM keys) and the one of diffusers. Sizes are inferred from the weights, so a tiny random
checkpoint takes the same way as the real one; every load is strict. Knows nothing of files and of what the networks
are used for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from tasks.models.stable_diffusion import keys as sd_keys
from tasks.models.stable_diffusion.checkpoint import CheckpointError, StateDict, load_strict

UNET, VAE, TEXT_ENCODER = PARTS = ("unet", "vae", "text_encoder")
_PREFIXES = {UNET: "model.diffusion_model.", VAE: "first_stage_model.", TEXT_ENCODER: "cond_stage_model.model."}
_UNREAD = {UNET: (), VAE: ("loss.",), TEXT_ENCODER: ("text_projection", "logit_scale", "attn_mask", "visual.")}
"""What a checkpoint may hold of a part although no restoration reads it."""
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

Network = TypeVar("Network", bound=nn.Module)
Config = dict[str, Any]


@dataclass(frozen=True)
class SDComponents:
    """The three networks of one checkpoint, in evaluation mode; a part that was not asked for is None."""

    unet: Any = None
    vae: Any = None
    text_encoder: Any = None


@dataclass(frozen=True)
class DiffusersCopy:
    """Stable Diffusion in the layout of diffusers: part → its configuration and its weights."""

    parts: Mapping[str, tuple[Config, StateDict]]


Source = Mapping[str, Tensor] | DiffusersCopy
"""Weights with LDM keys, or a diffusers copy."""


def load_sd_components(
    source: Source,
    parts: Collection[str] = PARTS,
    dtype: torch.dtype = torch.float32,
) -> SDComponents:
    """Builds Stable Diffusion 2 from weights with LDM keys or from a diffusers copy.

    Only `parts` are built. Raises `CheckpointError` when the weights are of another architecture or incomplete.
    The text encoder gives the penultimate layer with the final norm applied, as `last_hidden_state`.
    """
    if isinstance(source, DiffusersCopy):
        return SDComponents(**{part: _from_copy(*source.parts[part], part, dtype) for part in parts})
    return SDComponents(**{part: _from_ldm(source, part, dtype) for part in parts})


def build_on_meta(build: Callable[[], Network], state: StateDict, what: str, dtype: torch.dtype) -> Network:
    """Builds a network without memory for its weights, then gives it `state` in `dtype`; frozen, in eval mode."""
    with torch.device("meta"):
        model = build()
    load_strict(model, {key: _cast(value, dtype) for key, value in state.items()}, what)
    return model.requires_grad_(False).eval()


def ldm_encoder_config(state: StateDict) -> Config:
    """Infers widths, depths and attention of a UNet or ControlNet from LDM weights (keys without prefix)."""
    downs = sum(key.startswith("input_blocks.") and key.endswith(".op.weight") for key in state)
    blocks = len({key.split(".")[1] for key in state if key.startswith("input_blocks.")})
    levels, layers = downs + 1, blocks // (downs + 1) - 1
    first = [1 + level * (layers + 1) for level in range(levels)]
    try:
        widths = [state[f"input_blocks.{i}.0.out_layers.3.weight"].shape[0] for i in first]
        attention = [f"input_blocks.{i}.1.proj_in.weight" in state for i in first]
        transformer = f"input_blocks.{first[attention.index(True)]}.1"
        context = state[f"{transformer}.transformer_blocks.0.attn2.to_k.weight"].shape[1]
        in_channels = state["input_blocks.0.0.weight"].shape[1]
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"expected the weights of a Stable Diffusion 2 UNet or ControlNet, but {error} is missing; "
            f"found keys such as {', '.join(list(state)[:3])}"
        ) from error
    return {
        "in_channels": in_channels,
        "block_out_channels": tuple(widths),
        "layers_per_block": layers,
        "attention_head_dim": tuple(heads(width) for width in widths),
        "cross_attention_dim": context,
        "use_linear_projection": state[f"{transformer}.proj_in.weight"].ndim == 2,
        "down_block_types": tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attention),
    }


def attention_levels(config: Mapping[str, Any]) -> list[bool]:
    """Says for each resolution of a diffusers configuration whether it attends."""
    return [name.startswith("CrossAttn") for name in config["down_block_types"]]


def convert_keys(state: StateDict, modules: Mapping[str, str], what: str) -> StateDict:
    """Renames LDM weights to diffusers names; raises `CheckpointError` for a name that has no counterpart."""
    names = sd_keys.rename(state, modules)
    strangers = [key for key, name in names.items() if name is None]
    if strangers:
        raise CheckpointError(f"{what}: {len(strangers)} weights belong to another architecture: {strangers[:3]}")
    return {str(names[key]): value for key, value in state.items()}


def _from_ldm(state: Mapping[str, Tensor], part: str, dtype: torch.dtype) -> Any:
    prefix = _PREFIXES[part]
    own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if not own:
        raise CheckpointError(
            f"{part}: expected a Stable Diffusion checkpoint with keys {prefix}…, "
            f"found keys such as {', '.join(list(state)[:3])}"
        )
    read = {key: value for key, value in own.items() if not key.startswith(_UNREAD[part])}
    return _LDM_BUILDERS[part](read, dtype)


def _unet_from_ldm(state: StateDict, dtype: torch.dtype) -> Any:
    config = ldm_encoder_config(state)
    attention = attention_levels(config)
    ups = tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention))
    modules = sd_keys.unet_modules(attention, config["layers_per_block"])
    weights = convert_keys(state, modules, UNET)
    return build_on_meta(lambda: UNet2DConditionModel(up_block_types=ups, **config), weights, UNET, dtype)


def _vae_from_ldm(state: StateDict, dtype: torch.dtype) -> Any:
    levels = len({key.split(".")[2] for key in state if key.startswith("encoder.down.")})
    layers = len({key.split(".")[4] for key in state if key.startswith("encoder.down.0.block.")})
    try:
        widths = tuple(state[f"encoder.down.{i}.block.0.conv1.weight"].shape[0] for i in range(levels))
        latent = state["post_quant_conv.weight"].shape[0]
    except KeyError as error:
        raise CheckpointError(f"vae: expected the weights of an AutoencoderKL, but {error} is missing") from error
    config = {
        "block_out_channels": widths,
        "latent_channels": latent,
        "layers_per_block": layers,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
    }
    weights = convert_keys(state, sd_keys.vae_modules(levels, layers), VAE)
    return build_on_meta(lambda: AutoencoderKL(**config), attention_as_linear(weights), VAE, dtype)


def _text_encoder_from_ldm(state: StateDict, dtype: torch.dtype) -> Any:
    """Builds OpenCLIP's text tower without its last block, whose output the networks never see."""
    depth = len({key.split(".")[2] for key in state if key.startswith("transformer.resblocks.")})
    try:
        positions = state.pop("positional_embedding")
        vocabulary, width = state["token_embedding.weight"].shape
        intermediate = state["transformer.resblocks.0.mlp.c_fc.weight"].shape[0]
    except KeyError as error:
        raise CheckpointError(f"text_encoder: expected OpenCLIP's text tower, but {error} is missing") from error
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=intermediate,
        num_hidden_layers=depth - 1,
        num_attention_heads=heads(width),
        max_position_embeddings=positions.shape[0],
        hidden_act="gelu",
    )
    last_block = f"transformer.resblocks.{depth - 1}."
    kept = _split_projections({key: value for key, value in state.items() if not key.startswith(last_block)})
    weights = convert_keys(kept, sd_keys.text_modules(depth - 1) | _projection_modules(depth - 1), TEXT_ENCODER)
    weights["embeddings.position_embedding.weight"] = positions
    return _text_encoder(config, weights, dtype)


_LDM_BUILDERS = {UNET: _unet_from_ldm, VAE: _vae_from_ldm, TEXT_ENCODER: _text_encoder_from_ldm}


def _split_projections(state: StateDict) -> StateDict:
    split: StateDict = {}
    for key, value in state.items():
        stem, joint, kind = key.partition("in_proj_")
        if not joint:
            split[key] = value
            continue
        for name, part in zip("qkv", value.chunk(3), strict=True):
            split[f"{stem}{name}_proj.{kind}"] = part
    return split


def _projection_modules(layers: int) -> dict[str, str]:
    return {
        f"transformer.resblocks.{i}.attn.{name}_proj": f"encoder.layers.{i}.self_attn.{name}_proj"
        for i in range(layers)
        for name in "qkv"
    }


def attention_as_linear(state: StateDict) -> StateDict:
    """The original autoencoder's attention uses 1x1 convolutions, the one of diffusers linear layers."""
    return {
        key: value.flatten(1) if ".attentions." in key and value.ndim == 4 else value for key, value in state.items()
    }


def _text_encoder(config: CLIPTextConfig, state: StateDict, dtype: torch.dtype) -> Any:
    model = build_on_meta(lambda: CLIPTextModel(config), state, TEXT_ENCODER, dtype)
    model.embeddings.position_ids = torch.arange(config.max_position_embeddings)[None]
    return model


def _from_copy(config: Config, state: StateDict, part: str, dtype: torch.dtype) -> Any:
    if part == TEXT_ENCODER:
        stripped = {key.removeprefix("text_model."): value for key, value in state.items()}
        stripped.pop("embeddings.position_ids", None)
        return _text_encoder(CLIPTextConfig.from_dict(config), stripped, dtype)
    network = {UNET: UNet2DConditionModel, VAE: AutoencoderKL}[part]
    state = attention_as_linear({_modern(key): value for key, value in state.items()}) if part == VAE else state
    return build_on_meta(lambda: network.from_config(config), state, part, dtype)


def _modern(key: str) -> str:
    """Files of 2022 name the autoencoder's attention layers in another way."""
    module, _, leaf = key.rpartition(".")
    stem, _, name = module.rpartition(".")
    return f"{stem}.{_OLD_ATTENTION[name]}.{leaf}" if name in _OLD_ATTENTION else key


def heads(width: int) -> int:
    """Heads are 64 wide in Stable Diffusion 2; in networks too narrow for that, as tests use, 16."""
    return width // 64 if width >= 128 else max(1, width // 16)


def _cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype) if value.is_floating_point() else value
