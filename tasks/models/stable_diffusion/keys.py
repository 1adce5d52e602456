"""Names of Stable Diffusion 2 weights: the original (LDM) layout beside the one of diffusers.

Tables of module names, usable in both directions; knows neither files nor networks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

Modules = dict[str, str]

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_VAE_RESNET = {name: name for name in ("norm1", "conv1", "norm2", "conv2")} | {"nin_shortcut": "conv_shortcut"}
_VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_CLIP_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def encoder_modules(attention: Sequence[bool], layers: int) -> Modules:
    """Time embedding, down blocks and middle block, which UNet and ControlNet share.

    `attention` says for each resolution whether its blocks have a transformer; `layers` is the number of residual
    blocks in each.
    """
    modules = {
        "time_embed.0": "time_embedding.linear_1",
        "time_embed.2": "time_embedding.linear_2",
        "input_blocks.0.0": "conv_in",
        "middle_block.1": "mid_block.attentions.0",
    }
    modules |= _inside("middle_block.0", "mid_block.resnets.0", _RESNET)
    modules |= _inside("middle_block.2", "mid_block.resnets.1", _RESNET)
    for level, attends in enumerate(attention):
        first, block = 1 + level * (layers + 1), f"down_blocks.{level}"
        for layer in range(layers):
            modules |= _inside(f"input_blocks.{first + layer}.0", f"{block}.resnets.{layer}", _RESNET)
            if attends:
                modules[f"input_blocks.{first + layer}.1"] = f"{block}.attentions.{layer}"
        if level < len(attention) - 1:
            modules[f"input_blocks.{first + layers}.0.op"] = f"{block}.downsamplers.0.conv"
    return modules


def unet_modules(attention: Sequence[bool], layers: int) -> Modules:
    """Every module of the UNet: the encoder's, the up blocks and the output."""
    modules = encoder_modules(attention, layers) | {"out.0": "conv_norm_out", "out.2": "conv_out"}
    for level, attends in enumerate(reversed(attention)):
        first, block = level * (layers + 1), f"up_blocks.{level}"
        for layer in range(layers + 1):
            modules |= _inside(f"output_blocks.{first + layer}.0", f"{block}.resnets.{layer}", _RESNET)
            if attends:
                modules[f"output_blocks.{first + layer}.1"] = f"{block}.attentions.{layer}"
        if level < len(attention) - 1:
            place = 2 if attends else 1
            modules[f"output_blocks.{first + layers}.{place}.conv"] = f"{block}.upsamplers.0.conv"
    return modules


def controlnet_modules(attention: Sequence[bool], layers: int) -> Modules:
    """Every module of the ControlNet: the encoder's and the 1x1 convolutions that feed the UNet."""
    modules = encoder_modules(attention, layers) | {"middle_block_out.0": "controlnet_mid_block"}
    blocks = len(attention) * (layers + 1)
    return modules | {f"zero_convs.{i}.0": f"controlnet_down_blocks.{i}" for i in range(blocks)}


def vae_modules(levels: int, layers: int) -> Modules:
    """Every module of the autoencoder; the decoder counts its levels from the other end in the original layout."""
    modules = {name: name for name in ("quant_conv", "post_quant_conv")}
    for half in ("encoder", "decoder"):
        modules |= {f"{half}.{name}": f"{half}.{name}" for name in ("conv_in", "conv_out")}
        modules[f"{half}.norm_out"] = f"{half}.conv_norm_out"
        for index in (1, 2):
            modules |= _inside(f"{half}.mid.block_{index}", f"{half}.mid_block.resnets.{index - 1}", _VAE_RESNET)
        modules |= _inside(f"{half}.mid.attn_1", f"{half}.mid_block.attentions.0", _VAE_ATTENTION)
    for level in range(levels):
        down, up = f"encoder.down_blocks.{level}", f"decoder.up_blocks.{levels - 1 - level}"
        for layer in range(layers):
            modules |= _inside(f"encoder.down.{level}.block.{layer}", f"{down}.resnets.{layer}", _VAE_RESNET)
        for layer in range(layers + 1):
            modules |= _inside(f"decoder.up.{level}.block.{layer}", f"{up}.resnets.{layer}", _VAE_RESNET)
        if level < levels - 1:
            modules[f"encoder.down.{level}.downsample.conv"] = f"{down}.downsamplers.0.conv"
        if level > 0:
            modules[f"decoder.up.{level}.upsample.conv"] = f"{up}.upsamplers.0.conv"
    return modules


def text_modules(layers: int) -> Modules:
    """Modules of OpenCLIP's text tower whose weights keep their shape (the joint q, k, v projections do not)."""
    modules = {"token_embedding": "embeddings.token_embedding", "ln_final": "final_layer_norm"}
    for layer in range(layers):
        modules |= _inside(f"transformer.resblocks.{layer}", f"encoder.layers.{layer}", _CLIP_BLOCK)
    return modules


def rename(keys: Iterable[str], modules: Mapping[str, str]) -> dict[str, str | None]:
    """Maps each weight name to its new one by the longest module name that it starts with; `None` if there is none."""
    return {key: _renamed(key, modules) for key in keys}


def _renamed(key: str, modules: Mapping[str, str]) -> str | None:
    parts = key.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module = modules.get(".".join(parts[:cut]))
        if module is not None:
            return ".".join([module, *parts[cut:]])
    return None


def _inside(old: str, new: str, names: Mapping[str, str]) -> Modules:
    return {f"{old}.{ours}": f"{new}.{theirs}" for ours, theirs in names.items()}
