"""Identity: is the restored face still the same person? It stands between the last restorer and paste-back.

A judge (a face-recognition network) compares the aligned input with the result. A result that is not the same
person goes down a ladder: blended with the input, then an earlier stage's result, then the original. Where nothing
can judge, the verdict is `undecidable`; that is recorded, and a setting says whether it passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from pydantic import Field, JsonValue

from tasks.faces import (
    ADAFACE,
    COMPACT,
    IN_WORDS,
    ONNX,
    TRUSTED,
    CompactJudge,
    Judge,
    adaface_judge,
    cosine,
    onnx_judge,
    recognition_crop,
    threshold_at,
)
from tasks.stage import Batch, Detail, FaceResult, FaceStage, Outcome, Pixels, StageSettings


class IdentitySettings(StageSettings):
    """How strict, and how far down the ladder."""

    threshold: float = Field(
        default=0.4,
        ge=-1.0,
        le=1.0,
        description="least cosine similarity of input and result (the challenge used 0.3 to 0.6, by data set); "
        "the small judge has its own",
    )
    blends: tuple[float, ...] = Field(
        default=(0.7, 0.4), description="shares of the result to try when the whole of it is another person"
    )
    earlier: str | None = Field(default="pisa_sr.restored", description="an earlier stage's image to try after them")
    undecidable: Literal["pass", "reject"] = Field(
        default="pass", description="what happens to faces that no judge here can be sure of"
    )
    batch_size: int = Field(default=16, ge=1, le=256, description="faces per micro-batch")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One rung of the ladder."""

    name: str
    image: Pixels
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Likeness:
    """How alike input and candidate are, and what is said of it."""

    value: float
    said: str = "similarity"


@dataclass(frozen=True, slots=True)
class Sitting:
    """One judge with one input before it: compares recognition crops (112, 112, 3) with that input's."""

    metric: str
    threshold: float
    compare: Callable[[Pixels], Likeness]
    beware: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of the ladder: the rung that is kept, or `original`, or `undecidable` and why.

    `tried` holds the likeness of every rung that was looked at; all of them had to reach `threshold`.
    """

    verdict: str
    judge: str
    tried: Mapping[str, float] = field(default_factory=dict)
    threshold: float = 0.0
    why: str = ""

    def to_detail(self) -> Detail:
        """For the ledger; `judge` is the name of its weights."""
        if self.why:
            return {"verdict": self.verdict, "why": self.why, "judge": self.judge}
        tried = dict[str, JsonValue](self.tried)
        return {"verdict": self.verdict, "tried": tried, "judge": self.judge, "threshold": self.threshold}


class Judging(FaceStage):
    """A stage that asks whether two pictures show the same person, of whichever judge is here."""

    on_device = True
    parameters_m = 43.6
    float32_only = True

    @classmethod
    def weights_optional(cls, settings: StageSettings) -> tuple[str, ...]:
        """AdaFace, or any recognition network in ONNX form that takes 112-pixel crops; else the package's own."""
        return (ADAFACE, ONNX, COMPACT)

    def load(self, device: str, dtype: str) -> None:
        """The judge computes in float32 whatever the run's dtype is: a threshold stands behind it."""
        self.judge: Judge | None = None
        self.small: CompactJudge | None = None
        self.present = next((name for name in (ADAFACE, ONNX, COMPACT) if name in self.weights), "")
        if self.present == ADAFACE:
            self.judge = adaface_judge(self.weights[ADAFACE], device)
        elif self.present == ONNX:
            self.judge = onnx_judge(self.weights[ONNX])
        elif self.present == COMPACT:
            self.small = CompactJudge(self.weights[COMPACT], device)

    def sitting(self, reference: Pixels, threshold: float) -> Sitting | str:
        """The judge that is here, with the input's crop before it; or why nothing can judge this face."""
        if self.judge is not None:
            return _by_recognition(self.judge, reference, threshold)
        if self.small is None:
            return f"no judge: the weights {ADAFACE} are not present"
        return _by_parts(self.small, reference)


class Identity(Judging):
    """Writes the `restored` that may be pasted back, and its similarity to the input.

    That is `identity.restored` where a recognition network judges, `identity_compact.restored` where the small judge
    does: the two are never taken for each other.
    """

    name = "identity"
    Settings = IdentitySettings
    writes = ("restored",)
    working_gb = 0.01

    settings: IdentitySettings

    @classmethod
    def images_read(cls, settings: StageSettings) -> tuple[str, ...]:
        """The input, the result, and the earlier result that the ladder may need."""
        assert isinstance(settings, IdentitySettings)
        return ("aligned", "restored", *((settings.earlier,) if settings.earlier else ()))

    @classmethod
    def batch_size(cls, settings: StageSettings) -> int:
        """Faces per micro-batch, from the settings."""
        assert isinstance(settings, IdentitySettings)
        return settings.batch_size

    def run(self, batch: Batch) -> list[FaceResult]:
        """The first rung that is the same person, for every face on its own."""
        return [self._verdict({n: i[k] for n, i in batch.images.items()}) for k in range(len(batch))]

    def _verdict(self, images: dict[str, Pixels]) -> FaceResult:
        sitting = self.sitting(recognition_crop(images["aligned"]), self.settings.threshold)
        if isinstance(sitting, str):
            return self._undecidable(images, sitting)
        tried: dict[str, float] = {}
        for candidate in self._ladder(images):
            likeness = sitting.compare(recognition_crop(candidate.image))
            tried[candidate.name] = likeness.value
            if likeness.value >= sitting.threshold:
                return self._kept(candidate, sitting, tried)
            if candidate.name == "restored":
                said = f"{likeness.said} {likeness.value:.2f} is below {sitting.threshold:.2f}"
        reason = f"{said}, and no rung came nearer{sitting.beware}"
        metrics = {sitting.metric: tried["restored"]}
        detail = Verdict("original", self.present, tried, sitting.threshold).to_detail()
        outcome = Outcome("rejected_identity", "identity_lost", reason, metrics, detail)
        return FaceResult(outcome, {"restored": images["aligned"]})

    def _ladder(self, images: dict[str, Pixels]) -> Iterator[Candidate]:
        aligned, restored = images["aligned"], images["restored"]
        yield Candidate("restored", restored, Outcome())
        for share in self.settings.blends:
            blended = aligned + np.float32(share) * (restored - aligned)
            yield Candidate(f"blend_{share}", blended, Outcome("done_fallback", "fallback_blend"))
        if self.settings.earlier:
            yield Candidate("earlier", images[self.settings.earlier], Outcome("done_fallback", "fallback_earlier"))

    def _kept(self, candidate: Candidate, sitting: Sitting, tried: dict[str, float]) -> FaceResult:
        outcome = Outcome(
            candidate.outcome.state,
            candidate.outcome.reason_code,
            ""
            if candidate.name == "restored"
            else f"kept {candidate.name}: the whole result was {tried['restored']:.2f}",
            {sitting.metric: tried[candidate.name]},
            Verdict(candidate.name, self.present, tried, sitting.threshold).to_detail(),
        )
        return FaceResult(outcome, {"restored": candidate.image})

    def _undecidable(self, images: dict[str, Pixels], why: str) -> FaceResult:
        detail = Verdict("undecidable", self.present, why=why).to_detail()
        if self.settings.undecidable == "pass":
            return FaceResult(Outcome(detail=detail), {"restored": images["restored"]})
        reason = f"{why}: get the weights {ADAFACE}, or set undecidable = 'pass'"
        outcome = Outcome("rejected_identity", "undecidable", reason, detail=detail)
        return FaceResult(outcome, {"restored": images["aligned"]})


def _by_recognition(judge: Judge, reference: Pixels, threshold: float) -> Sitting:
    vector = judge(reference[None])[0]
    return Sitting("identity.restored", threshold, lambda crop: Likeness(cosine(vector, judge(crop[None])[0])))


def _by_parts(judge: CompactJudge, reference: Pixels) -> Sitting | str:
    seen = judge.look(reference[None])
    trust = float(seen.trust[0])
    if trust < TRUSTED[0]:
        return f"the input shows too little for the small judge (trust {trust:.2f}, needed {TRUSTED[0]:.2f})"

    def compare(crop: Pixels) -> Likeness:
        part, value = judge.least_alike(seen, judge.look(crop[None]))
        return Likeness(value, f"{IN_WORDS[part]} is another by the small judge: similarity")

    beware = f"; this judge is a weak one: for AdaFace, get the weights {ADAFACE}"
    return Sitting("identity_compact.restored", threshold_at(trust), compare, beware)
