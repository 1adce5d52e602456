"""Scoring: how good named images of a face are, by networks that need no reference. Gates read what is written here."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field, field_validator

from tasks.models.tensors import to_tensor
from tasks.stage import Batch, FaceResult, FaceStage, Outcome, Pixels, StageSettings

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
SCORERS: dict[str, tuple[str, ...]] = {
    "sharpness": (),
    "quality": ("compact_quality",),
    "clipiqa": ("clip_rn50",),
    "musiq": ("musiq_koniq",),
}
"""metric → the weights it needs (none: it is a formula)."""


class ScoreSettings(StageSettings):
    """What to score, with what."""

    images: tuple[str, ...] = Field(default=("restored",), min_length=1, description="named images to score")
    metrics: tuple[str, ...] = Field(default=("quality",), min_length=1, description="metrics of tasks.score.SCORERS")

    @field_validator("metrics")
    @classmethod
    def _known(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [m for m in metrics if m not in SCORERS]
        if unknown:
            raise ValueError(f"unknown metric {unknown[0]!r}; known are {', '.join(SCORERS)}")
        return metrics


class Score(FaceStage):
    """Writes `metric.image` for each metric and image; changes no pixel."""

    name = "score"
    on_device = True
    Settings = ScoreSettings

    settings: ScoreSettings

    @classmethod
    def images_read(cls, settings: StageSettings) -> tuple[str, ...]:
        """The images to score."""
        assert isinstance(settings, ScoreSettings)
        return settings.images

    @classmethod
    def weights_needed(cls, settings: StageSettings) -> tuple[str, ...]:
        """The weights of every metric asked for."""
        assert isinstance(settings, ScoreSettings)
        return tuple(name for metric in settings.metrics for name in SCORERS[metric])

    @classmethod
    def extras_needed(cls, settings: StageSettings) -> tuple[str, ...]:
        """pyiqa, for the metrics whose networks it has."""
        assert isinstance(settings, ScoreSettings)
        return ("iqa",) if {"clipiqa", "musiq"} & set(settings.metrics) else ()

    @classmethod
    def provides(cls, settings: StageSettings) -> tuple[str, ...]:
        """`metric.image` for each pair."""
        assert isinstance(settings, ScoreSettings)
        return tuple(f"{metric}.{image}" for metric in settings.metrics for image in settings.images)

    def load(self, device: str, dtype: str) -> None:
        """Scores decide gates, so they are computed in float32 whatever the run's dtype is."""
        self._device = device
        learned = [metric for metric in self.settings.metrics if SCORERS[metric]]
        self._networks = {metric: self._build(metric).to(device).eval() for metric in learned}

    def run(self, batch: Batch) -> list[FaceResult]:
        """One face at a time, so that a score, and the gate it drives, never depends on the face's neighbours."""
        return [FaceResult(Outcome(reason_code="scored", metrics=self._scores(batch, i))) for i in range(len(batch))]

    def _scores(self, batch: Batch, index: int) -> dict[str, float]:
        import torch

        scores = {}
        for image in self.settings.images:
            pixels = batch.images[image][index : index + 1].clip(0, 1)
            if "sharpness" in self.settings.metrics:
                scores[f"sharpness.{image}"] = sharpness(pixels[0])
            tensor = to_tensor(pixels, self._device)
            for metric, network in self._networks.items():
                with torch.inference_mode():
                    scores[f"{metric}.{image}"] = float(network(tensor).reshape(-1)[0])
        return scores

    def _build(self, metric: str) -> Any:
        from tasks.models.compact import table as compact
        from tasks.models.quality import iqa

        files = [self.weights[name] for name in SCORERS[metric]]
        return compact.load_compact(files[0]) if metric == "quality" else iqa.load(metric, *files)


def sharpness(image: Pixels) -> float:
    """Standard deviation of the luma's Laplacian, in 8-bit levels: 0 for a flat picture, 2 and more for a crisp one."""
    import cv2

    return float(cv2.Laplacian(image @ LUMA, cv2.CV_32F).std() * 255)
