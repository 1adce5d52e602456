"""Scoring: how good named images of a face are, by metrics that need no reference. Gates read what is written here.

`score` takes the images and metrics that its settings name. `evaluate` is the same with its own: at the end of a
recipe it looks at the face as it was and as it is pasted back, for the report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from pydantic import Field, field_validator

from tasks.measuring import AFTER, BEFORE, METRICS, FacePair, Meter, Unmeasurable, weights_of
from tasks.stage import Batch, FaceResult, FaceStage, Outcome, Pixels, StageSettings
from tasks.stages.paste_back import DELIVERED


class Scoring(FaceStage):
    """Writes `metric.image` for each metric and image; changes no pixel.

    A metric that cannot be taken of a face is absent, never zero, and the reason is said.
    """

    on_device = True
    working_gb = 0.1
    float32_only = True

    def metrics(self) -> tuple[str, ...]:
        """The metrics to take of every image."""
        raise NotImplementedError

    def load(self, device: str, dtype: str) -> None:
        """Scores decide gates, so they are computed in float32 whatever the run's dtype is."""
        self._meter = Meter(self.metrics(), self.weights, device)
        self._meter.load()

    def run(self, batch: Batch) -> list[FaceResult]:
        """One face at a time, so that a score, and the gate it drives, never depends on the face's neighbours."""
        names = self.images_read(self.settings)
        return [FaceResult(self.scored({name: batch.images[name][k] for name in names})) for k in range(len(batch))]

    def scored(self, images: Mapping[str, Pixels]) -> Outcome:
        """The metrics of one face, by its named images."""
        found, untaken = dict[str, float](), list[str]()
        for image, pixels in images.items():
            for metric in self.metrics():
                try:
                    found[f"{metric}.{image}"] = self._meter.measure(FacePair(pixels), (metric,))[metric]
                except Unmeasurable as error:
                    untaken.append(f"{image}: {error}")
        return Outcome(reason_code="scored", reason="; ".join(untaken), metrics=found)


class ScoreSettings(StageSettings):
    """What to score, with what."""

    images: tuple[str, ...] = Field(default=("restored",), min_length=1, description="named images to score")
    metrics: tuple[str, ...] = Field(
        default=("quality",), min_length=1, description="metrics of tasks.measuring that need no reference"
    )

    @field_validator("metrics")
    @classmethod
    def _known(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        known = [name for name, metric in METRICS.items() if metric.kind == "no_reference"]
        unknown = [name for name in metrics if name not in known]
        if unknown:
            raise ValueError(f"unknown metric {unknown[0]!r}; known are {', '.join(known)}")
        return metrics


class Score(Scoring):
    """Takes the metrics and images of its settings."""

    name = "score"
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
        return weights_of(settings.metrics)

    @classmethod
    def extras_needed(cls, settings: StageSettings) -> tuple[str, ...]:
        """The packages of every metric asked for."""
        assert isinstance(settings, ScoreSettings)
        return tuple(dict.fromkeys(extra for name in settings.metrics if (extra := METRICS[name].extra)))

    @classmethod
    def parameters(cls, settings: StageSettings) -> float | None:
        """Those of the networks of every metric asked for."""
        assert isinstance(settings, ScoreSettings)
        known = [METRICS[name].parameters_m for name in settings.metrics]
        told = [millions for millions in known if millions is not None]
        return sum(told) if len(told) == len(known) else None

    @classmethod
    def provides(cls, settings: StageSettings) -> tuple[str, ...]:
        """`metric.image` for each pair."""
        assert isinstance(settings, ScoreSettings)
        return tuple(f"{metric}.{image}" for metric in settings.metrics for image in settings.images)

    def metrics(self) -> tuple[str, ...]:
        """Those of the settings."""
        return self.settings.metrics


class EvaluateSettings(StageSettings):
    """What to measure beside sharpness and change."""

    quality: bool = Field(default=True, description="score input and result with the shipped quality network")


class Evaluate(Scoring):
    """Takes sharpness, and quality where its weights are present, of the face before and after; and what changed."""

    name = "evaluate"
    code_version = 2
    Settings = EvaluateSettings
    reads = (BEFORE, DELIVERED)
    parameters_m = 0.0

    settings: EvaluateSettings

    @classmethod
    def weights_optional(cls, settings: StageSettings) -> tuple[str, ...]:
        """The shipped quality network."""
        assert isinstance(settings, EvaluateSettings)
        return weights_of(["quality"]) if settings.quality else ()

    def metrics(self) -> tuple[str, ...]:
        """Those that can be taken here."""
        return ("sharpness", "quality") if self.weights else ("sharpness",)

    def scored(self, images: Mapping[str, Pixels]) -> Outcome:
        """Every metric before and after, and the mean change of a pixel, 0 to 1.

        After is the face as it was delivered: cut again from the finished picture, where there is one.
        """
        outcome = super().scored({BEFORE: images[BEFORE], AFTER: images[DELIVERED]})
        change = np.abs(images[DELIVERED].clip(0, 1) - images[BEFORE]).mean()
        return replace(outcome, metrics={**outcome.metrics, f"change.{AFTER}": float(change)})
