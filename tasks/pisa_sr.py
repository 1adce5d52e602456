"""The first restorer: PiSA-SR where its weights are, a small feed-forward network in the compact recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from tasks.stage import Batch, FaceResult, FaceStage, Outcome, StageSettings
from tasks.tensors import NetworkStage, to_pixels, to_tensor

if TYPE_CHECKING:
    import torch

BASE, LORA = "sd21_base", "pisa_sr"


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
    batch_size: int = Field(default=4, ge=1, le=256, description="faces per micro-batch")


class PisaSR(FaceStage):
    """PiSA-SR in one diffusion step (Sun et al., CVPR 2025), then its colours moved to those of the input."""

    name = "pisa_sr"
    on_device = True
    Settings = PisaSRSettings
    reads = ("aligned",)
    writes = ("restored",)

    settings: PisaSRSettings

    @classmethod
    def weights_needed(cls, settings: StageSettings) -> tuple[str, ...]:
        """Stable Diffusion 2.1 base and the two LoRAs."""
        return (BASE, LORA)

    @classmethod
    def batch_size(cls, settings: StageSettings) -> int:
        """Faces per micro-batch, from the settings."""
        assert isinstance(settings, PisaSRSettings)
        return settings.batch_size

    def load(self, device: str, dtype: str) -> None:
        """A second UNet is kept only where the two shares differ."""
        import torch

        from tasks.models.pisa_sr import load_pisa_sr

        self._device = device
        adjustable = self.settings.lambda_pix != self.settings.lambda_sem
        files = self.weights[BASE], self.weights[LORA]
        self._network = load_pisa_sr(*files, adjustable=adjustable, dtype=getattr(torch, dtype)).to(device)

    def run(self, batch: Batch) -> list[FaceResult]:
        """Noise is drawn per face from its seed, so neighbours do not matter."""
        from tasks.models.noise import SeededNoise
        from tasks.models.pisa_sr import PiSASRSettings

        shares = PiSASRSettings(lambda_pix=self.settings.lambda_pix, lambda_sem=self.settings.lambda_sem)
        before = to_tensor(batch.images["aligned"], self._device)
        after = self._network.restore(before, SeededNoise([face.seed for face in batch.faces]), shares)
        return [FaceResult(Outcome(), {"restored": image}) for image in to_pixels(self._recoloured(after, before))]

    def _recoloured(self, after: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        from tasks.models import color_fix

        if self.settings.colour_fix == "none":
            return after
        fixes = {
            ("adain", True): color_fix.adain_8bit,
            ("adain", False): color_fix.adain,
            ("wavelet", True): color_fix.wavelet_8bit,
            ("wavelet", False): color_fix.wavelet_reconstruction,
        }
        return fixes[self.settings.colour_fix, self.settings.eight_bit](after, before).clamp(0, 1)


class CompactRestorer(NetworkStage):
    """The small restorer that this project trains and ships (tasks/models/weights/MODEL_CARD.md)."""

    name = "compact_restorer"
    reads = ("aligned",)
    source = "aligned"

    @classmethod
    def weights_needed(cls, settings: StageSettings) -> tuple[str, ...]:
        """One shipped file."""
        return ("compact_restorer",)

    def build(self) -> Any:
        """The network from its safetensors file."""
        from tasks.models.compact import load_compact

        return load_compact(self.weights["compact_restorer"])
