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
from diffusers import AutoencoderKL, SD3Transformer2DModel, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from tasks.models.diffusion.ir_controlnet import IRControlNet
from tasks.models.one_step import hypir, lora, tsd_sr
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
SDXL_CONFIG = {
    "block_out_channels": (WIDTH, WIDTH, 64),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (2, 2, 4),
    "transformer_layers_per_block": (1, 1, 2),
    "cross_attention_dim": WIDTH,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": WIDTH + 6 * 8,
}
SD3_CONFIG = {
    "num_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": WIDTH,
    "caption_projection_dim": WIDTH,
    "pooled_projection_dim": WIDTH,
    "pos_embed_max_size": 64,
}
SD3_VAE_CONFIG = VAE_CONFIG | {
    "latent_channels": 16,
    "scaling_factor": 1.5305,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
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


def swinir() -> dict[str, Tensor]:
    """The weights of SwinIR in DiffBIR's layout, as small as it can be."""
    from spandrel.architectures.SwinIR.__arch.SwinIR import SwinIR

    sizes = {"img_size": 64, "window_size": 8, "embed_dim": 12, "depths": [1], "num_heads": [2], "mlp_ratio": 2}
    net = SwinIR(**sizes, upscale=8, start_unshuffle=8, upsampler="nearest+conv")
    return {key.replace("conv_first.", "conv_first.1."): value for key, value in net.state_dict().items()}


def write_one_step(folder: Path) -> dict[str, Path]:
    """The files of OSDFace, HYPIR, SDFace and TSD-SR beside their base, by their names in the table of weights."""
    attention = ("to_k", "to_q", "to_v", "to_out.0")
    with torch.device("meta"):
        unet, xl = UNet2DConditionModel(**UNET_CONFIG), UNet2DConditionModel(**SDXL_CONFIG)
        vae, sd3, sd3_vae = (
            AutoencoderKL(**VAE_CONFIG),
            SD3Transformer2DModel(**SD3_CONFIG),
            AutoencoderKL(**SD3_VAE_CONFIG),
        )
    on_sd3 = {"transformer": (SD3_CONFIG, sd3), "vae": (SD3_VAE_CONFIG, sd3_vae)}
    for part, (config, network) in on_sd3.items():
        (folder / "sd3" / part).mkdir(parents=True)
        (folder / "sd3" / part / "config.json").write_text(json.dumps(config))
        save_file(_fill(network.state_dict(), 20), folder / "sd3" / part / "diffusion_pytorch_model.safetensors")
    whole = _with_adapters(xl, "unet.", attention) | _with_adapters(vae, "vae.", attention)
    for_sd3 = _changes(sd3, lora.adapted(sd3, tsd_sr.ADAPTED), "transformer.", "")
    for_vae = _changes(
        sd3_vae, lora.adapted(sd3_vae.encoder, ("conv1", "conv2")), "transformer.encoder.", "", "encoder."
    )
    contents = {
        "osdface_lora.safetensors": _changes(unet, lora.adapted(unet, attention), "unet.", ""),
        "osdface_codes.ckpt": {"epoch": 1, "state_dict": _vq_encoder()},
        "osdface_embedding.pth": _fill(_embedding_change(), 21),
        "hypir_sd2.pth": _changes(unet, lora.adapted(unet, hypir.ADAPTED), "", ".default"),
        "sdface.pth": {"params": whole},
        "sdface_prompt.pt": _random("words", (1, 77, WIDTH), 22),
        "sdface_pooled.pt": _random("pooled", (1, WIDTH), 22),
        "tsd_sr_transformer.safetensors": for_sd3,
        "tsd_sr_vae.safetensors": for_vae,
        "tsd_sr_prompt.pt": _random("sd3 words", (1, 9, WIDTH), 22),
        "tsd_sr_pooled.pt": _random("sd3 pooled", (1, WIDTH), 22),
    }
    for name, content in contents.items():
        (save_file if name.endswith(".safetensors") else torch.save)(content, folder / name)
    return {"sd3_medium": folder / "sd3"} | {name.partition(".")[0]: folder / name for name in contents}


def _changes(network: Any, modules: set[str], prefix: str, adapter: str, inside: str = "") -> dict[str, Tensor]:
    """Low-rank changes of these modules of a network, by their published names."""
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    found = {}
    for module in sorted(modules):
        _, inputs, *kernel = shapes[f"{inside}{module}.weight"]
        ends = {"A": (RANK, inputs, *kernel), "B": (shapes[f"{inside}{module}.weight"][0], RANK, *(1 for _ in kernel))}
        for half, shape in ends.items():
            key = f"{prefix}{module}.lora_{half}{adapter}.weight"
            found[key] = 0.3 * _random(key, shape, 23)
    return found


def _with_adapters(network: Any, prefix: str, targets: tuple[str, ...]) -> dict[str, Tensor]:
    """A whole network as peft stores it: adapted layers under `base_layer`, their changes beside them."""
    modules = lora.adapted(network, targets)
    renamed = {
        f"{stem}.base_layer.{leaf}" if (stem := key.rpartition(".")[0]) in modules else key: value
        for key, value in _fill(network.state_dict(), 24).items()
        for leaf in [key.rpartition(".")[2]]
    }
    changes = _changes(network, modules, prefix, ".default")
    return {f"{prefix}{key}": value for key, value in renamed.items()} | changes


def _vq_encoder() -> dict[str, Tensor]:
    """OSDFace's encoder, as narrow as its normalisation allows, and what lies beside it in the file."""
    norms, square = ("norm1", "norm2"), (WIDTH, WIDTH, 3, 3)
    places = [f"down.{level}.block.{n}" for level in range(6) for n in range(2)] + ["mid.block_1", "mid.block_2"]
    attends = ["down.5.attn.0", "down.5.attn.1", "mid.attn_1"]
    shapes = {"conv_in": (WIDTH, 3, 3, 3), "norm_out": (WIDTH,), "conv_out": square}
    shapes |= {f"{place}.{norm}": (WIDTH,) for place in (*places, *attends) for norm in norms}
    shapes |= {f"{place}.{conv}": square for place in places for conv in ("conv1", "conv2")}
    shapes |= {f"{place}.{name}": (WIDTH, WIDTH, 1, 1) for place in attends for name in ("q", "k", "v", "proj_out")}
    shapes |= {f"down.{level}.downsample.conv": square for level in range(5)}
    named = {f"vqvae_LQ.encoder.{name}": shape for name, shape in shapes.items()}
    named["vqvae_LQ.quant_conv"] = (WIDTH, WIDTH, 1, 1)
    weights = {f"{name}.weight": _random(name, shape, 25) for name, shape in named.items()}
    biases = {f"{name}.bias": _random(f"{name}.bias", shape[:1], 25) for name, shape in named.items()}
    beside = {"vqvae_HQ.decoder.weight": torch.zeros(1)}
    codes = 2 * _random("codes", (128, WIDTH), 25) * WIDTH**0.5
    return weights | biases | beside | {"vqvae_LQ.quantize.embedding.weight": codes}


def _embedding_change() -> dict[str, Tensor]:
    shapes = {"conv1": (16, WIDTH, 1), "conv2": (WIDTH, 16, 1)}
    weights = {f"{name}.weight": torch.empty(shape) for name, shape in shapes.items()}
    return weights | {f"{name}.bias": torch.empty(shape[0]) for name, shape in shapes.items()}


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
