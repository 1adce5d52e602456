"""Evaluation of single faces at the end of a recipe: what the report and the nightly comparison look at.

It measures the face as it was and as it is pasted back; a metric whose weights are missing is absent, never zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from tasks.models.tensors import to_tensor
from tasks.stage import Batch, FaceResult, FaceStage, Outcome, Pixels, StageSettings
from tasks.stages.score import SCORERS, sharpness


class EvaluateSettings(StageSettings):
    """What to measure beside sharpness and change."""

    quality: bool = Field(default=True, description="score input and result with the shipped quality network")


class Evaluate(FaceStage):
    """Writes `quality.*`, `sharpness.*` for `input` and `final`, and `change.final`; changes no pixel."""

    name = "evaluate"
    on_device = True
    Settings = EvaluateSettings
    reads = ("aligned", "restored")

    settings: EvaluateSettings

    @classmethod
    def weights_optional(cls, settings: StageSettings) -> tuple[str, ...]:
        """The shipped quality network."""
        assert isinstance(settings, EvaluateSettings)
        return SCORERS["quality"] if settings.quality else ()

    def load(self, device: str, dtype: str) -> None:
        """The quality network, where its weights are present."""
        self._device = device
        self._quality: Any = None
        if self.weights:
            from tasks.models.compact.table import load_compact

            self._quality = load_compact(self.weights["compact_quality"]).to(device).eval()

    def run(self, batch: Batch) -> list[FaceResult]:
        """One face at a time: numbers that are compared overnight must not depend on neighbours."""
        pairs = zip(batch.images["aligned"], batch.images["restored"], strict=True)
        return [FaceResult(Outcome(reason_code="scored", metrics=self._measure(a, r))) for a, r in pairs]

    def _measure(self, aligned: Pixels, restored: Pixels) -> dict[str, float]:
        final = restored.clip(0, 1)
        metrics = {
            "sharpness.input": sharpness(aligned),
            "sharpness.final": sharpness(final),
            "change.final": float(np.abs(final - aligned).mean()),
        }
        if self._quality is not None:
            metrics |= {"quality.input": self._score(aligned), "quality.final": self._score(final)}
        return metrics

    def _score(self, image: Pixels) -> float:
        import torch

        with torch.inference_mode():
            return float(self._quality(to_tensor(image[None], self._device)).reshape(-1)[0])
