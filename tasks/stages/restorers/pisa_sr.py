"""PiSA-SR, the first restorer: one diffusion step that draws detail anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from tasks.models.tensors import compiled, placed, to_pixels, to_tensor
from tasks.stage import Batch, FaceResult, FaceStage, Outcome, StageSettings

if TYPE_CHECKING:
    import torch

    from tasks.models.diffusion.pisa_sr import PiSASRSettings

BASE, LORA = "sd21_base", "pisa_sr"
SECOND_UNET_M = 865.9
"""Millions of parameters beside the others, where the two shares differ."""


class PisaSRSettings(StageSettings):
    """The defaults are those of MPSR's released configuration."""

    lambda_pix: float = Field(
        default=1.0, ge=0.0, le=2.0, description="share of the pixel LoRA's effect; 1 = as trained"
    )
    lambda_sem: float = Field(default=1.0, ge=0.0, le=2.0, description="share of the semantic LoRA; 1 = as trained")
    colour_fix: Literal["adain", "wavelet", "none"] = Field(
        default="adain", description="how the result gets the input's colours back"
    )
    eight_bit: bool = Field(
        default=False, description="truncate to 8 bits before and after the colour fix, as the released code does"
    )
    tile: int = Field(
        default=768, ge=64, multiple_of=64, description="pixels per side of the UNet's tiles; smaller faces stay whole"
    )
    tile_overlap: int = Field(default=256, ge=0, multiple_of=64, description="pixels that two tiles share")
    encoder_tile: int = Field(
        default=1088, ge=64, multiple_of=32, description="pixels per side of the autoencoder's tiles on the way in"
    )
    decoder_tile: int = Field(
        default=1952, ge=64, multiple_of=32, description="pixels per side of the autoencoder's tiles on the way out"
    )
    compile: bool = Field(
        default=False, description="compile the networks first: minutes once, then faster, and rounded otherwise"
    )
    batch_size: int = Field(default=4, ge=1, le=256, description="faces per micro-batch")

    @property
    def needs_two(self) -> bool:
        """Whether the two shares differ, which takes a second UNet."""
        return self.lambda_pix != self.lambda_sem

    @model_validator(mode="after")
    def _tiles_move_on(self) -> PisaSRSettings:
        if self.tile_overlap >= self.tile:
            raise ValueError(f"expected tile_overlap below the tile's {self.tile} px, got {self.tile_overlap}")
        return self


class PisaSR(FaceStage):
    """PiSA-SR in one diffusion step (Sun et al., CVPR 2025), then its colours moved to those of the input."""

    name = "pisa_sr"
    generative = True
    on_device = True
    Settings = PisaSRSettings
    reads = ("aligned",)
    writes = ("restored",)
    parameters_m = 949.6
    working_gb = 0.81
    remembers = ("the latent noise",)

    settings: PisaSRSettings

    @classmethod
    def weights_needed(cls, settings: StageSettings) -> tuple[str, ...]:
        """Stable Diffusion 2.1 base and the two LoRAs."""
        return (BASE, LORA)

    @classmethod
    def parameters(cls, settings: StageSettings) -> float:
        """A second UNet's, too, where the two shares differ."""
        assert isinstance(settings, PisaSRSettings)
        return cls.parameters_m + (SECOND_UNET_M if settings.needs_two else 0.0)

    @classmethod
    def batch_size(cls, settings: StageSettings) -> int:
        """Faces per micro-batch, from the settings."""
        assert isinstance(settings, PisaSRSettings)
        return settings.batch_size

    def load(self, device: str, dtype: str) -> None:
        """A second UNet is kept only where the two shares differ."""
        import torch

        from infra.weights import fitting, load_checkpoint
        from tasks.models.diffusion.pisa_sr import load_pisa_sr
        from tasks.stages.restorers.sd_files import read_base

        self._device = device
        base, lora = self.weights[BASE], self.weights[LORA]
        weights = read_base(base), load_checkpoint(lora, expect="PiSA-SR's LoRAs")
        with fitting(base, lora, expect="Stable Diffusion 2.1 base and PiSA-SR's LoRAs"):
            network = load_pisa_sr(*weights, adjustable=self.settings.needs_two, dtype=getattr(torch, dtype))
        self._network = placed(network, device, dtype)
        if self.settings.compile:
            unets = [unet for unet in (network.unet, network.unet_pixel) if unet is not None]
            compiled(*unets, network.vae.encoder, network.vae.decoder)

    def run(self, batch: Batch) -> list[FaceResult]:
        """Noise is drawn per face from its seed, so neighbours do not matter."""
        from tasks.models.diffusion.noise import SeededNoise

        before = to_tensor(batch.images["aligned"], self._device)
        noise = SeededNoise([face.seed for face in batch.faces])
        after = self._network.restore(before, noise, self._network_settings())
        return [FaceResult(Outcome(), {"restored": image}) for image in to_pixels(self._recoloured(after, before))]

    def _network_settings(self) -> PiSASRSettings:
        from tasks.models.diffusion.latents import FACTOR
        from tasks.models.diffusion.pisa_sr import PiSASRSettings

        given = self.settings
        return PiSASRSettings(
            lambda_pix=given.lambda_pix,
            lambda_sem=given.lambda_sem,
            latent_tile=given.tile // FACTOR,
            latent_overlap=given.tile_overlap // FACTOR,
            encoder_tile=given.encoder_tile,
            decoder_tile=given.decoder_tile,
        )

    def _recoloured(self, after: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        from tasks.models.diffusion import color_fix

        if self.settings.colour_fix == "none":
            return after
        fixes = {
            ("adain", True): color_fix.adain_8bit,
            ("adain", False): color_fix.adain,
            ("wavelet", True): color_fix.wavelet_8bit,
            ("wavelet", False): color_fix.wavelet_reconstruction,
        }
        return fixes[self.settings.colour_fix, self.settings.eight_bit](after, before).clamp(0, 1)
