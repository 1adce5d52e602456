"""A stage of your own: aligned faces in, faces out. Everything else (resume, identity, ledger, report) follows."""

import cv2
import numpy as np
from pydantic import Field

from tasks.stage import Batch, FaceResult, FaceStage, Outcome, Pixels, StageSettings


class SharpenSettings(StageSettings):
    """How much."""

    amount: float = Field(default=0.3, ge=0, le=2, description="share of the detail that is added once more")


class Sharpen(FaceStage):
    """Adds fine detail of the restored face (512, 512, 3), [0, 1], to itself (an unsharp mask)."""

    name = "sharpen"
    Settings = SharpenSettings
    reads = ("restored",)
    writes = ("restored",)

    def run(self, batch: Batch) -> list[FaceResult]:
        return [FaceResult(Outcome(), {"restored": self.sharpened(face)}) for face in batch.images["restored"]]

    def sharpened(self, face: Pixels) -> Pixels:
        soft = cv2.GaussianBlur(face, (0, 0), 2)
        return np.clip(face + self.settings.amount * (face - soft), 0, 1).astype(np.float32)
