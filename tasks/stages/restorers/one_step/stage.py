"""What the restorers of one diffusion step share as stages: noise by face, colours moved to the input's, batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tasks.models.tensors import placed, to_pixels, to_tensor
from tasks.stage import Batch, FaceResult, FaceStage, Outcome, StageSettings

if TYPE_CHECKING:
    import torch

    from tasks.models.one_step.one_step import OneStep

BASE = "sd21_base"
ColourFix = Literal["adain", "wavelet", "none"]


class OneStepSettings(StageSettings):
    """What every restorer of one step lets people set."""

    colour_fix: ColourFix = Field(default="none", description="how the result gets the input's colours back")
    batch_size: int = Field(default=4, ge=1, le=256, description="faces per micro-batch")


class OneStepStage(FaceStage):
    """A one-step restorer on the newest result. Subclasses build the network.

    `clamps_first`: the released code cuts the result to [0, 1] before it moves the colours.
    """

    on_device = True
    Settings = OneStepSettings
    reads = ("restored",)
    writes = ("restored",)
    working_gb = 0.81  # the decoder's, which is Stable Diffusion's in all of them
    remembers = ("the latent noise",)
    generative = True
    clamps_first: ClassVar[bool] = True

    settings: OneStepSettings

    @classmethod
    def batch_size(cls, settings: StageSettings) -> int:
        """Faces per micro-batch, from the settings."""
        assert isinstance(settings, OneStepSettings)
        return settings.batch_size

    def build(self, dtype: torch.dtype) -> OneStep:
        """The network from its published files, on the CPU. Raises a WeightsError where one is another's."""
        raise NotImplementedError

    def load(self, device: str, dtype: str) -> None:
        """Weights are merged in float32 and rounded once."""
        import torch

        self._device = device
        self._network = placed(self.build(getattr(torch, dtype)), device, None)

    def run(self, batch: Batch) -> list[FaceResult]:
        """Noise is drawn per face from its seed, so neighbours do not matter."""
        from tasks.models.diffusion.noise import SeededNoise

        before = to_tensor(batch.images["restored"], self._device)
        after = self._network.restore(before, SeededNoise([face.seed for face in batch.faces]))
        after = after.clamp(0, 1) if self.clamps_first else after
        return [FaceResult(Outcome(), {"restored": image}) for image in to_pixels(self._recoloured(after, before))]

    def _recoloured(self, after: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        from tasks.models.diffusion import color_fix

        fixes = {"adain": color_fix.adain, "wavelet": color_fix.wavelet_reconstruction}
        fix = fixes.get(self.settings.colour_fix)
        return (fix(after, before) if fix else after).clamp(0, 1)
