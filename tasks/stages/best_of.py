"""Several results of a face, and one that is kept: the best by a score among those that are still the same person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, JsonValue, field_validator

from tasks.faces import recognition_crop
from tasks.measuring import METRICS, FacePair, Meter, Unmeasurable, weights_of
from tasks.stage import Batch, Detail, FaceResult, Outcome, Pixels, StageSettings
from tasks.stages.identity import Judging


class BestOfSettings(StageSettings):
    """Which results, by which score, and how alike they must be to the input."""

    images: tuple[str, ...] = Field(
        default=("aligned", "restored"), min_length=2, description="named images to choose from, the safest first"
    )
    metric: str = Field(default="quality", description="metric of tasks.measuring that needs no reference and decides")
    threshold: float = Field(
        default=0.4, ge=-1.0, le=1.0, description="least cosine similarity to the input; the small judge has its own"
    )
    batch_size: int = Field(default=16, ge=1, le=256, description="faces per micro-batch")

    @field_validator("metric")
    @classmethod
    def _ranks(cls, metric: str) -> str:
        known = [name for name, each in METRICS.items() if each.kind == "no_reference" and each.better]
        if metric not in known:
            raise ValueError(f"unknown metric {metric!r}; known are {', '.join(known)}")
        return metric


class BestOf(Judging):
    """Writes the best-scored of its images that is the same person as the input, and says how all of them fared.

    Where none is, the safest is kept, which is the one named first; where nothing can judge, the score alone decides,
    and an identity stage after this one has the last word in either case.
    """

    name = "best_of"
    Settings = BestOfSettings
    writes = ("restored",)
    working_gb = 0.1

    settings: BestOfSettings

    @classmethod
    def images_read(cls, settings: StageSettings) -> tuple[str, ...]:
        """The input and the images to choose from."""
        assert isinstance(settings, BestOfSettings)
        return tuple(dict.fromkeys(("aligned", *settings.images)))

    @classmethod
    def weights_needed(cls, settings: StageSettings) -> tuple[str, ...]:
        """Those of the score."""
        assert isinstance(settings, BestOfSettings)
        return weights_of([settings.metric])

    @classmethod
    def extras_needed(cls, settings: StageSettings) -> tuple[str, ...]:
        """The package of the score."""
        assert isinstance(settings, BestOfSettings)
        extra = METRICS[settings.metric].extra
        return (extra,) if extra else ()

    @classmethod
    def provides(cls, settings: StageSettings) -> tuple[str, ...]:
        """The score of each image."""
        assert isinstance(settings, BestOfSettings)
        return tuple(f"{settings.metric}.{image}" for image in settings.images)

    @classmethod
    def batch_size(cls, settings: StageSettings) -> int:
        """Faces per micro-batch, from the settings."""
        assert isinstance(settings, BestOfSettings)
        return settings.batch_size

    def load(self, device: str, dtype: str) -> None:
        """Score and judge compute in float32: they decide."""
        super().load(device, dtype)
        self._meter = Meter((self.settings.metric,), self.weights, device)
        self._meter.load()

    def run(self, batch: Batch) -> list[FaceResult]:
        """Every face on its own."""
        return [self._chosen({n: i[k] for n, i in batch.images.items()}) for k in range(len(batch))]

    def _chosen(self, images: Mapping[str, Pixels]) -> FaceResult:
        candidates = {name: images[name] for name in self.settings.images}
        try:
            scores = {name: self._score(image) for name, image in candidates.items()}
        except Unmeasurable as error:
            safest = self.settings.images[0]
            return FaceResult(Outcome(reason=f"kept {safest}: {error}"), {"restored": images[safest]})
        ranked = sorted(scores, key=lambda name: scores[name], reverse=METRICS[self.settings.metric].better == "higher")
        sitting = self.sitting(recognition_crop(images["aligned"]), self.settings.threshold)
        if isinstance(sitting, str):
            return self._kept(ranked[0], candidates, scores, {"undecidable": sitting})
        alike = {name: sitting.compare(recognition_crop(image)).value for name, image in candidates.items()}
        same = [name for name in ranked if alike[name] >= sitting.threshold]
        tried: dict[str, JsonValue] = dict(alike)
        detail = {"similarity": tried, "threshold": sitting.threshold, "judge": self.present}
        return self._kept((same or self.settings.images)[0], candidates, scores, detail)

    def _score(self, image: Pixels) -> float:
        metric = self.settings.metric
        return self._meter.measure(FacePair(image), (metric,))[metric]

    def _kept(
        self, name: str, images: Mapping[str, Pixels], scores: Mapping[str, float], detail: Mapping[str, Any]
    ) -> FaceResult:
        metrics = {f"{self.settings.metric}.{image}": score for image, score in scores.items()}
        said: Detail = {"kept": name, **detail}
        return FaceResult(Outcome(metrics=metrics, detail=said), {"restored": images[name]})
