"""Writes tiny random networks to disk in the layouts of the published files, for tests of what loads them.

Every file is a pure function of its seed. The networks have the depth and the names of the real ones and a fraction
of their width; what they paint means nothing.
"""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from tasks.models.diffusion.ir_controlnet import IRControlNet
from tasks.models.stable_diffusion import keys as sd_keys

ATTENTION = [True, True, True, False]
WIDTH, LAYERS, LEVELS, RANK, TEXT_LAYERS = 32, 1, 4, 4, 2
UNET_CONFIG = {
    "block_out_channels": (WIDTH,) * LEVELS,
    "attention_head_dim": (2,) * LEVELS,
    "cross_attention_dim": WIDTH,
    "layers_per_block": LAYERS,
    "use_linear_projection": True,
}
VAE_CONFIG = {
    "block_out_channels": (WIDTH,) * LEVELS,
    "latent_channels": 4,
    "layers_per_block": LAYERS,
    "down_block_types": ("DownEncoderBlock2D",) * LEVELS,
    "up_block_types": ("UpDecoderBlock2D",) * LEVELS,
}
TEXT_CONFIG = {
    "vocab_size": 49408,
    "hidden_size": WIDTH,
    "intermediate_size": 4 * WIDTH,
    "num_hidden_layers": TEXT_LAYERS,
    "num_attention_heads": 2,
    "max_position_embeddings": 77,
    "hidden_act": "gelu",
}
_LORA_NAMES = ("to_k", "to_q", "to_v", "to_out.0", "conv", "proj_out", "proj_in", "ff.net.2", "ff.net.0.proj")


def write_sd_checkpoint(path: Path, seed: int = 0) -> Path:
    """Stable Diffusion in the original single-file layout: `.safetensors`, or anything else as a torch file."""
    state = _original_sd(seed)
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "global_step": 1}, path)
    return path


def write_diffusers_folder(path: Path, seed: int = 0) -> Path:
    """The same weights as a diffusers folder, with the old prefix that transformers 5 no longer expects."""
    text = {f"text_model.{key}": value for key, value in _fill(_text_shapes(), seed).items()}
    parts = {
        "unet": (UNET_CONFIG, _fill(_unet_shapes(), seed), "diffusion_pytorch_model"),
        "vae": (VAE_CONFIG, _fill(_vae_shapes(), seed), "diffusion_pytorch_model"),
        "text_encoder": (TEXT_CONFIG, text, "model"),
    }
    for part, (config, state, name) in parts.items():
        (path / part).mkdir(parents=True, exist_ok=True)
        (path / part / "config.json").write_text(json.dumps(config))
        save_file(state, path / part / f"{name}.safetensors")
    return path


def write_ir_controlnet(path: Path, seed: int = 1) -> Path:
    """`v2.pth` and its like: bare keys; the convolutions that start at zero in training do not here."""
    with torch.device("meta"):
        shapes = IRControlNet(in_channels=8, **UNET_CONFIG).state_dict()
    modules = sd_keys.controlnet_modules(ATTENTION, LAYERS)
    torch.save(_original(_fill(shapes, seed), modules, ""), path)
    return path


def write_pisa_lora(path: Path, seed: int = 2) -> Path:
    """`pisa_sr.pkl`: six lists of modules, two ranks, and the LoRA weights by their old names."""
    torch.save(pisa_lora(_unet_shapes(), seed), path)
    return path


def pisa_lora(unet: Mapping[str, Tensor], seed: int) -> dict[str, Any]:
    """The content of `pisa_sr.pkl` for a UNet with these weights."""
    shapes = {key.removesuffix(".weight"): tuple(v.shape) for key, v in unet.items() if _adapted(key)}
    content: dict[str, Any] = {"state_dict_unet": {}}
    for kind in ("pix", "sem"):
        content[f"lora_rank_unet_{kind}"] = RANK
        for part in ("encoder", "decoder", "others"):
            modules = [name for name in shapes if _part(name) == part]
            content[f"unet_lora_{part}_modules_{kind}"] = modules
            for name in modules:
                content["state_dict_unet"] |= _lora_pair(name, shapes[name], f"default_{part}_{kind}", seed)
    return content


def _adapted(key: str) -> bool:
    return not any(word in key for word in ("bias", "norm")) and any(name in key for name in _LORA_NAMES)


def _part(module: str) -> str:
    if module.startswith(("down_blocks", "conv_in")):
        return "encoder"
    return "decoder" if module.startswith(("up_blocks", "conv_out")) else "others"


def _lora_pair(module: str, shape: tuple[int, ...], adapter: str, seed: int) -> dict[str, Tensor]:
    kernel = shape[2:]
    down = f"{module}.lora_A.{adapter}.weight"
    up = f"{module}.lora_B.{adapter}.weight"
    shapes = {down: (RANK, shape[1], *kernel), up: (shape[0], RANK, *(1 for _ in kernel))}
    return {key: 0.1 * _random(key, size, seed) for key, size in shapes.items()}


def _original_sd(seed: int) -> dict[str, Tensor]:
    unet = _original(_fill(_unet_shapes(), seed), sd_keys.unet_modules(ATTENTION, LAYERS), "model.diffusion_model.")
    vae = _original(_fill(_vae_shapes(), seed), sd_keys.vae_modules(LEVELS, LAYERS), "first_stage_model.")
    for key, value in vae.items():
        if ".attn_1." in key and value.ndim == 2:
            vae[key] = value[..., None, None].contiguous()
    return unet | vae | _original_text(_fill(_text_shapes(), seed), seed)


def _original_text(state: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """OpenCLIP's layout, with the last block that nothing reads."""
    prefix = "cond_stage_model.model."
    positions = state.pop("embeddings.position_embedding.weight")
    joint = {}
    for layer in range(TEXT_LAYERS):
        for kind in ("weight", "bias"):
            parts = [state.pop(f"encoder.layers.{layer}.self_attn.{name}_proj.{kind}") for name in "qkv"]
            joint[f"{prefix}transformer.resblocks.{layer}.attn.in_proj_{kind}"] = torch.cat(parts)
    original = _original(state, sd_keys.text_modules(TEXT_LAYERS), prefix) | joint
    block = f"{prefix}transformer.resblocks."
    unread = {
        key.replace(f"{block}0.", f"{block}{TEXT_LAYERS}."): _random(key, tuple(value.shape), seed)
        for key, value in original.items()
        if key.startswith(f"{block}0.")
    }
    ends = {"text_projection": torch.eye(WIDTH), "logit_scale": torch.tensor(1.0), "positional_embedding": positions}
    ends["attn_mask"] = torch.zeros(77, 77)
    return original | unread | {prefix + name: value for name, value in ends.items()}


def _original(state: Mapping[str, Tensor], modules: Mapping[str, str], prefix: str) -> dict[str, Tensor]:
    names = sd_keys.rename(state, {new: old for old, new in modules.items()})
    return {f"{prefix}{names[key]}": value for key, value in state.items()}


def _unet_shapes() -> dict[str, Tensor]:
    with torch.device("meta"):
        return dict(UNet2DConditionModel(**UNET_CONFIG).state_dict())


def _vae_shapes() -> dict[str, Tensor]:
    with torch.device("meta"):
        return dict(AutoencoderKL(**VAE_CONFIG).state_dict())


def _text_shapes() -> dict[str, Tensor]:
    with torch.device("meta"):
        return dict(CLIPTextModel(CLIPTextConfig(**TEXT_CONFIG)).state_dict())


def _fill(shapes: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    return {key: _random(key, tuple(value.shape), seed) for key, value in shapes.items()}


def _random(key: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """Seeded by name, so that no order of modules matters; scaled so that signals neither die nor explode."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + zlib.crc32(key.encode()))
    values = torch.randn(shape, generator=generator)
    if key.endswith("bias"):
        return 0.05 * values
    if len(shape) < 2:
        return 1 + 0.1 * values
    return 0.7 * values / max(1, torch.Size(shape[1:]).numel()) ** 0.5
