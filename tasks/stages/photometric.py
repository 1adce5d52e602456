"""The photometric steps of the released MPSR: unsharp masking and saturation on truncated 8-bit values."""

from __future__ import annotations

from pydantic import Field

from tasks.models.tensors import to_pixels, to_tensor
from tasks.stage import Batch, FaceResult, FaceStage, Outcome, StageSettings


class PhotometricSettings(StageSettings):
    """`enhancer: [0, 50, 1.1]` of the released configuration."""

    radius: float = Field(default=0.0, ge=0.0, le=50.0, description="pixels of the unsharp mask; 0 = no sharpening")
    percent: int = Field(default=50, ge=0, le=500, description="share of the difference to the blurred face, percent")
    saturation: float = Field(default=1.1, ge=0.0, le=4.0, description="0 = grey, 1 = as it was")


class Photometric(FaceStage):
    """Sharpens and saturates the newest result; it leaves 8-bit values, cut off as in the released code."""

    name = "photometric"
    Settings = PhotometricSettings
    reads = ("restored",)
    writes = ("restored",)
    parameters_m = 0.0
    working_gb = 0.1
    float32_only = True

    settings: PhotometricSettings

    def run(self, batch: Batch) -> list[FaceResult]:
        """Each face on its own; nothing is random."""
        from tasks.models.restorers.photometric import enhance

        given = self.settings
        after = enhance(to_tensor(batch.images["restored"]), given.radius, given.percent, given.saturation)
        return [FaceResult(Outcome(), {"restored": image}) for image in to_pixels(after)]
