"""PiSA-SR: super-resolution in one step of Stable Diffusion, with one LoRA for pixels and one for semantics.

Sun et al., "Pixel-level and Semantic-level Adjustable Super-resolution: A Dual-LoRA Approach" (CVPR 2025),
repository csslc/PiSA-SR. Tensors in, tensors out: knows neither faces nor batches of files.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tasks.models.diffusion import clip_prompts, latents, stored_prompts
from tasks.models.diffusion.noise import NoiseSource
from tasks.models.diffusion.tiling import Tiling, centred_mask
from tasks.models.stable_diffusion.checkpoint import CheckpointError
from tasks.models.stable_diffusion.convert import Source, load_sd_components

Kind = Literal["pix", "sem"]
LORA_ALPHA = 8
"""The default of peft when the network was trained; the file does not say. With rank 4 the LoRA counts twice."""
TIMESTEP = 1
_PARTS = ("encoder", "decoder", "others")


@dataclass(frozen=True)
class PiSASRSettings:
    """How much of each LoRA's effect to take, and from which size on to work in tiles.

    `lambda_pix`, `lambda_sem` weigh outputs (0: none, 1: as trained). `latent_tile` and `latent_overlap` are in
    latent pixels; an image whose latent is no larger in area is taken whole. `encoder_tile` and `decoder_tile` are
    in image pixels, multiples of 32. The defaults leave whole what the released code leaves whole.
    """

    lambda_pix: float = 1.0
    lambda_sem: float = 1.0
    latent_tile: int = 96
    latent_overlap: int = 32
    encoder_tile: int = 1088
    decoder_tile: int = 1952

    def __post_init__(self) -> None:
        if not 0 <= self.latent_overlap < self.latent_tile:
            raise ValueError(f"expected latent_overlap below latent_tile {self.latent_tile}, got {self.latent_overlap}")
        for name in ("encoder_tile", "decoder_tile"):
            if getattr(self, name) % 32 or getattr(self, name) <= 0:
                raise ValueError(f"expected {name} to be a multiple of 32 pixels, got {getattr(self, name)}")


class PiSASR(nn.Module):
    """A UNet with both LoRAs merged, an autoencoder and the embedding of the empty prompt, (1, 77, D).

    `unet_pixel`, with the pixel LoRA only, is needed where the lambdas differ. `.to(dtype)` makes it fp16 or bf16
    throughout, as the released code does; the weights are merged in fp32 before. A random network drifts from fp32
    by 2.1 % in bf16 and 0.27 % in fp16.
    """

    def __init__(self, unet: Any, vae: Any, prompt: Tensor, unet_pixel: Any = None) -> None:
        super().__init__()
        self.prompt: Tensor
        self.unet, self.vae, self.unet_pixel = unet, vae, unet_pixel
        self.register_buffer("prompt", prompt, persistent=False)

    @torch.inference_mode()
    def restore(self, images: Tensor, noise: NoiseSource, settings: PiSASRSettings | None = None) -> Tensor:
        """Restores images of one size: (N, 3, H, W) in [0, 1] to the same, fp32, clamped.

        `noise` is asked once, for the latents, which are a sample of the autoencoder's. Sides that are no multiples
        of 8 are extended by their border pixels and cut again.
        """
        settings = settings or PiSASRSettings()
        padded = latents.pad_to_multiple(images * 2 - 1, latents.FACTOR, mode="replicate")
        latent = self.encode(padded, noise, settings)
        residual = self.residual(latent, settings)
        decoded = self.decode(latent - residual, settings)
        return decoded[..., : images.shape[-2], : images.shape[-1]] * 0.5 + 0.5

    def encode(self, images: Tensor, noise: NoiseSource, settings: PiSASRSettings) -> Tensor:
        """Sampled, scaled latents (N, 4, H/8, W/8) of images in [-1, 1]."""
        tiling = Tiling(settings.encoder_tile, settings.encoder_tile // 4 * 3, centred_mask)
        posterior = latents.encode(self.vae, images.to(self.vae.dtype), tiling)
        drawn = noise(tuple(posterior.mean.shape)).to(posterior.mean)
        sampled: Tensor = (posterior.mean + posterior.std * drawn) * self.vae.config.scaling_factor
        return sampled

    def residual(self, latent: Tensor, settings: PiSASRSettings) -> Tensor:
        """What the network finds in excess of the clean latent, (N, 4, h, w); in tiles where it is large."""
        tile = settings.latent_tile
        if latent.shape[-2] * latent.shape[-1] <= tile * tile:
            return self._predict(latent, settings)
        tiling = Tiling(tile, tile - settings.latent_overlap, centred_mask)
        return tiling.apply(lambda part, _: self._predict(part, settings), latent)

    def decode(self, latent: Tensor, settings: PiSASRSettings) -> Tensor:
        """Images (N, 3, 8h, 8w) in [-1, 1], fp32, from scaled latents."""
        size = settings.decoder_tile // latents.FACTOR
        tiling = Tiling(size, size // 4 * 3, centred_mask)
        return latents.decode(self.vae, latent / self.vae.config.scaling_factor, tiling).float().clamp(-1, 1)

    def _predict(self, latent: Tensor, settings: PiSASRSettings) -> Tensor:
        """λ_pix·pixel + λ_sem·(both − pixel), calling only the networks whose share is not zero."""
        pixel_share = settings.lambda_pix - settings.lambda_sem
        result = torch.zeros_like(latent)
        if settings.lambda_sem != 0:
            result = result + settings.lambda_sem * self._call(self.unet, latent)
        if pixel_share != 0:
            if self.unet_pixel is None:
                raise ValueError("different lambdas need the pixel network: load PiSA-SR with adjustable=True")
            result = result + pixel_share * self._call(self.unet_pixel, latent)
        return result

    def _call(self, unet: Any, latent: Tensor) -> Tensor:
        count = len(latent)
        timestep = torch.full((count,), TIMESTEP, device=latent.device)
        output: Tensor = unet(latent, timestep, self.prompt.expand(count, -1, -1), return_dict=False)[0]
        return output


def load_pisa_sr(
    base: Source,
    lora: Mapping[str, Any],
    adjustable: bool = False,
    dtype: torch.dtype = torch.float32,
) -> PiSASR:
    """Builds PiSA-SR from the weights of Stable Diffusion 2.1 base and the content of `pisa_sr.pkl` on top of them.

    `adjustable` keeps a second UNet (1.7 GB in fp16) for lambdas that differ. The text encoder serves for the one
    embedding and is dropped. Raises `CheckpointError` where either is not what it should be.
    """
    text_encoder = load_sd_components(base, parts=("text_encoder",)).text_encoder
    prompt = clip_prompts.embed(text_encoder, [stored_prompts.EMPTY])
    del text_encoder
    parts = load_sd_components(base, parts=("unet", "vae"))
    merge_lora(parts.unet, lora, "pix")
    pixel = copy.deepcopy(parts.unet).to(dtype) if adjustable else None
    merge_lora(parts.unet, lora, "sem")
    return PiSASR(parts.unet, parts.vae, prompt, pixel).to(dtype).eval()


def merge_lora(unet: Any, checkpoint: Mapping[str, Any], kind: Kind) -> None:
    """Adds one of the two LoRAs of `pisa_sr.pkl` to the weights of `unet`, in place.

    The file stores it in three disjoint parts; here they form one adapter. Raises `CheckpointError` if the file
    lacks something or belongs to another UNet.
    """
    from peft import LoraConfig

    try:
        modules = [name for part in _PARTS for name in checkpoint[f"unet_lora_{part}_modules_{kind}"]]
        rank, stored = checkpoint[f"lora_rank_unet_{kind}"], checkpoint["state_dict_unet"]
    except KeyError as error:
        raise CheckpointError(f"expected the LoRA file of PiSA-SR, but {error} is missing in it") from error
    weights = {_adapter_key(key, kind): value for key, value in stored.items() if f"_{kind}." in key}
    config = LoraConfig(r=rank, lora_alpha=LORA_ALPHA, init_lora_weights=False, target_modules=modules)
    unet.add_adapter(config, adapter_name=kind)
    _fill(unet, weights)
    unet.fuse_lora(adapter_names=[kind])
    unet.unload_lora()
    unet.requires_grad_(False)


def _adapter_key(key: str, kind: Kind) -> str:
    for part in _PARTS:
        key = key.replace(f".default_{part}_{kind}.", f".{kind}.")
    return key


def _fill(unet: Any, weights: Mapping[str, Tensor]) -> None:
    places = {name: value for name, value in unet.named_parameters() if "lora_" in name}
    if places.keys() != weights.keys():
        strange = sorted(places.keys() ^ weights.keys())
        raise CheckpointError(f"the LoRA does not fit this UNet: {len(strange)} weights differ, first {strange[:2]}")
    for name, place in places.items():
        if place.shape != weights[name].shape:
            raise CheckpointError(f"{name}: expected {tuple(place.shape)}, got {tuple(weights[name].shape)}")
        place.data.copy_(weights[name])
