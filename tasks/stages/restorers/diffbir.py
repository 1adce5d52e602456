"""DiffBIR's second stage on faces: several diffusion steps that add plausible detail, held to the condition's tones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from tasks.models.diffusion.stored_prompts import KNOWN_IDS, MPSR_NEGATIVE
from tasks.models.tensors import compiled, placed, to_pixels, to_tensor
from tasks.stage import Batch, FaceResult, FaceStage, Outcome, StageSettings

if TYPE_CHECKING:
    from tasks.models.diffusion.diffbir import DiffBIRSettings

Version = Literal["v1", "v2", "v2.1"]
FILES: dict[Version, tuple[str, str]] = {
    "v1": ("sd21_base", "diffbir_v1_face"),
    "v2": ("sd21_base", "diffbir_v2"),
    "v2.1": ("sd21_base_zsnr", "diffbir_v2_1"),
}
"""version → names of base and ControlNet in the weights table."""


class DiffBirSettings(StageSettings):
    """The defaults are those of MPSR's released configuration (DiffBIR v2, 50 spaced steps, guidance 4)."""

    version: Version = Field(default="v2", description="which released networks")
    sampler: Literal["spaced", "ddim", "dpm++_m2", "edm_euler", "edm_dpm++_2m", "edm_dpm++_3m_sde"] = Field(
        default="spaced", description="how noise becomes a picture"
    )
    steps: int = Field(default=50, ge=2, le=1000, description="network calls per face")
    cfg_scale: float = Field(default=4.0, ge=1.0, le=20.0, description="pull towards the positive prompt; 1 = none")
    rescale_cfg: bool = Field(default=False, description="let that pull grow over the steps")
    strength: float = Field(default=1.0, ge=0.0, le=2.0, description="hold of the condition; 1 = as trained, 0 = none")
    noise_aug: int = Field(default=0, ge=0, le=999, description="time step of noise added to the condition; 0 = none")
    start_point: Literal["noise", "cond"] = Field(default="noise", description="pure noise, or the noised condition")
    eta: float = Field(default=1.0, ge=0.0, le=1.0, description="noise of edm_dpm++_3m_sde; 0 = none")
    s_churn: float = Field(default=0.0, ge=0.0, description="noise that edm_euler adds at every step")
    positive: str = Field(default="", description="positive prompt")
    negative: str = Field(default=MPSR_NEGATIVE, description="negative prompt")
    tokenizer: str | None = Field(default=None, description="folder of SD 2.1's tokenizer, for prompts of your own")
    guidance_scale: float = Field(default=0.0, ge=0.0, description="restoration guidance to the condition; 0 = off")
    guidance_space: Literal["latent", "rgb"] = Field(default="latent", description="where that guidance compares")
    tile: int = Field(default=0, ge=0, multiple_of=64, description="pixels per side of a tile; 0 = whole")
    tile_stride: int = Field(default=256, ge=64, multiple_of=64, description="pixels between tiles")
    vae_tile: int = Field(default=0, ge=0, multiple_of=64, description="pixels per side of the autoencoder's tiles")
    compile: bool = Field(
        default=False, description="compile the networks first: minutes once, then faster, and rounded otherwise"
    )
    batch_size: int = Field(default=4, ge=1, le=256, description="faces per micro-batch")

    @model_validator(mode="after")
    def _tiles_meet(self) -> DiffBirSettings:
        if self.tile and self.tile_stride > self.tile:
            raise ValueError(f"tile_stride {self.tile_stride} leaves gaps between tiles of {self.tile} px")
        return self

    @model_validator(mode="after")
    def _sampler_can(self) -> DiffBirSettings:
        if self.guidance_scale and self.sampler != "spaced":
            raise ValueError(f"guidance_scale works with the sampler spaced only, not with {self.sampler}")
        if self.sampler == "ddim" and (self.steps > 500 or 1000 % (1000 // self.steps) == 1):
            raise ValueError(f"ddim cannot take {self.steps} steps: the last would lie beyond the schedule")
        return self

    @model_validator(mode="after")
    def _prompts_have_ids(self) -> DiffBirSettings:
        unread = [prompt for prompt in (self.positive, self.negative) if prompt not in KNOWN_IDS]
        if unread and not self.tokenizer:
            raise ValueError(f"no token ids are stored for the prompt {unread[0]!r}: set `tokenizer`, or use another")
        return self


class DiffBir(FaceStage):
    """DiffBIR (Lin et al., ECCV 2024) on the newest result."""

    name = "diffbir"
    generative = True
    on_device = True
    Settings = DiffBirSettings
    reads = ("restored",)
    writes = ("restored",)
    parameters_m = 1312.7
    working_gb = 0.81
    remembers = ("the noise of the start and of every step",)

    settings: DiffBirSettings

    @classmethod
    def weights_needed(cls, settings: StageSettings) -> tuple[str, ...]:
        """Base and ControlNet of the version."""
        assert isinstance(settings, DiffBirSettings)
        return FILES[settings.version]

    @classmethod
    def batch_size(cls, settings: StageSettings) -> int:
        """Faces per micro-batch, from the settings."""
        assert isinstance(settings, DiffBirSettings)
        return settings.batch_size

    def load(self, device: str, dtype: str) -> None:
        """The text encoder serves for two embeddings and is dropped."""
        from infra.weights import fitting, load_state_dict
        from tasks.models.diffusion.diffbir import load_diffbir
        from tasks.stages.restorers.sd_files import read_base

        given, what = self.settings, f"DiffBIR {self.settings.version}"
        base, control = (self.weights[name] for name in FILES[given.version])
        weights = read_base(base), load_state_dict(control, expect=what)
        tokenizer = Path(given.tokenizer) if given.tokenizer else None
        with fitting(base, control, expect=f"Stable Diffusion 2.1 base and {what}"):
            network = load_diffbir(*weights, given.version, given.positive, given.negative, tokenizer)
        self._device = device
        self._network = placed(network, device, dtype)
        if self.settings.compile:
            compiled(network.unet, network.controlnet, network.vae.encoder, network.vae.decoder)

    def run(self, batch: Batch) -> list[FaceResult]:
        """Noise is drawn per face from its seed, so neighbours do not matter."""
        from tasks.models.diffusion.noise import SeededNoise

        condition = to_tensor(batch.images["restored"], self._device)
        noise = SeededNoise([face.seed for face in batch.faces])
        restored = to_pixels(self._network.restore(condition, self._network_settings(), noise))
        return [FaceResult(Outcome(), {"restored": image}) for image in restored]

    def _network_settings(self) -> DiffBIRSettings:
        from tasks.models.diffusion.diffbir import DiffBIRSettings
        from tasks.models.diffusion.guidance import RestorationGuidance
        from tasks.models.diffusion.samplers import SamplerSettings

        given = self.settings
        guided = RestorationGuidance(given.guidance_scale, space=given.guidance_space)
        return DiffBIRSettings(
            sampler=given.sampler,
            steps=given.steps,
            sampling=SamplerSettings(
                cfg_scale=given.cfg_scale, rescale_cfg=given.rescale_cfg, eta=given.eta, s_churn=given.s_churn
            ),
            strength=given.strength,
            noise_aug=given.noise_aug,
            start_point=given.start_point,
            guidance=guided if given.guidance_scale else None,
            tile=given.tile,
            tile_stride=given.tile_stride,
            vae_tile=given.vae_tile,
        )
