"""The contract that every stage fulfils, and the records that travel between stages.

A stage is one named step of a recipe. It declares what it needs (settings, weights, named images), loads
once per worker process, and turns a batch into one result per face (or per image). It knows nothing of files,
ledgers, Prefect or Ray, and modules that define stages import torch only inside `load` and `run`, so that a
recipe can be validated without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, JsonValue

if TYPE_CHECKING:
    from tasks.pictures import Picture

Pixels = NDArray[np.float32]
"""An RGB image, shape (H, W, 3), float32, nominally in [0, 1] (a restorer may overshoot)."""

ImageRef = tuple[str, str]
"""Where a named image lies: the workspace path of an intermediate file, and the name in it."""
Detail = Mapping[str, JsonValue]
"""Anything but numbers that a stage finds worth keeping, as JSON."""
State = Literal["done", "done_fallback", "skipped", "rejected_identity", "failed_retryable", "quarantined"]
"""How a stage can leave a face or an image. The ledger knows a few more states (see infra.ledger)."""

WHOLE_IMAGE = -1
"""The `face` number of rows that speak of the image as a whole."""


class StageSettings(BaseModel):
    """Base of every stage's settings: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one face (or image) at one stage: always exactly one, always with a reason.

    `reason_code` is one of `tasks.archive.REASONS`; `reason` is a sentence for people (may be empty where the
    code says it all). `metrics` are numbers that later stages, gates and reports read, keyed `metric.image`
    (`clipiqa.aligned`). `detail` is anything else worth keeping, as JSON (landmarks, matrices, decisions).
    """

    state: State = "done"
    reason_code: str = "ok"
    reason: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    detail: Detail = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Face:
    """One face of one image, with what earlier stages found out about it.

    `seed` follows from image, face and stage alone: random numbers drawn from it are the same in any order, on any
    worker, device and dtype.
    `metrics` are those of all earlier stages; `detail` is what detection said of it (see tasks.faces.Alignment).
    """

    image_id: str
    face: int
    seed: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    detail: Detail = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Batch:
    """Faces and their named images.

    `images[name]` has shape (N, H, W, 3), float32 RGB, one row per face. A bare name (`aligned`, `restored`) is
    the newest image of that name; `stage_id.name` (`pisa_sr.restored`) is the one that a certain stage wrote.
    Where that stage was skipped for a face, the newest earlier one stands in.
    """

    faces: Sequence[Face]
    images: Mapping[str, Pixels]

    def __len__(self) -> int:
        return len(self.faces)


@dataclass(frozen=True, slots=True)
class FaceResult:
    """A stage's answer for one face: the outcome and the named images it wrote (empty when it wrote none)."""

    outcome: Outcome
    images: Mapping[str, Pixels] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ImageResult:
    """An image stage's answer: the image's own outcome, the faces found in it, or the finished picture."""

    outcome: Outcome
    faces: Sequence[FaceResult] = ()
    picture: Picture | None = None


class Stage:
    """Base of both kinds of stage.

    Class attributes declare what the stage needs; they are read without loading it:
    `code_version` is raised whenever the same input would give another output; `on_device` says that the stage
    computes on the run's device in the run's dtype (its results belong to that numerics class); `reads` and
    `writes` are named images; `provides` are the metrics that it promises, for gates to refer to;
    `parameters_m` (millions of parameters of its networks) and `working_gb` (GB beside them for each face of a
    micro-batch, in float32) are what it takes of a GPU's memory: None = nobody knows, and nobody guesses;
    `float32_only` says that it computes in float32 whatever the run's dtype is; `remembers` names what it draws at
    random, from each face's seed alone, so that it is the same in every run; `generative` says that it paints what it
    has learnt faces to look like (diffusion, a GAN's prior) instead of computing it from the pixels that are there.
    """

    name: ClassVar[str]
    code_version: ClassVar[int] = 1
    Settings: ClassVar[type[StageSettings]] = StageSettings
    on_device: ClassVar[bool] = False
    parameters_m: ClassVar[float | None] = None
    working_gb: ClassVar[float | None] = None
    float32_only: ClassVar[bool] = False
    remembers: ClassVar[tuple[str, ...]] = ()
    generative: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...]] = ()
    writes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, settings: StageSettings, weights: Mapping[str, Path] | None = None) -> None:
        """`weights` maps the names that `weights_needed` lists to verified files on this machine."""
        self.settings = settings
        self.weights = dict(weights or {})

    @classmethod
    def images_read(cls, settings: StageSettings) -> tuple[str, ...]:
        """The named images that a run with these settings reads."""
        return cls.reads

    @classmethod
    def weights_needed(cls, settings: StageSettings) -> tuple[str, ...]:
        """Names in `infra/weights/weights.toml` that a run with these settings loads."""
        return ()

    @classmethod
    def weights_optional(cls, settings: StageSettings) -> tuple[str, ...]:
        """Names that are loaded when present; without them the stage says what it cannot judge."""
        return ()

    @classmethod
    def extras_needed(cls, settings: StageSettings) -> tuple[str, ...]:
        """Extras of infra.extras whose packages a run with these settings imports."""
        return ()

    @classmethod
    def parameters(cls, settings: StageSettings) -> float | None:
        """Millions of parameters that a run with these settings holds; None where nobody knows."""
        return cls.parameters_m

    @classmethod
    def provides(cls, settings: StageSettings) -> tuple[str, ...]:
        """Metric names that every face has after this stage."""
        return ()

    @classmethod
    def batch_size(cls, settings: StageSettings) -> int:
        """Faces (or images) per micro-batch."""
        return 16

    def load(self, device: str, dtype: str) -> None:
        """Builds networks on `device` (`cpu`, `cuda`, `cuda:1`) in `dtype` (`float32`, `bfloat16`, `float16`).

        Runs once per worker process, before the first `run`.
        """


class FaceStage(Stage):
    """A stage that works on aligned faces."""

    def run(self, batch: Batch) -> list[FaceResult]:
        """One result per face, in order. A single bad face gets its own outcome and never raises."""
        raise NotImplementedError


class ImageStage(Stage):
    """A stage that works on whole pictures: it finds faces in one, or puts them back."""

    def run(self, picture: Picture, batch: Batch) -> ImageResult:
        """`batch` holds the picture's faces with the images this stage reads (empty before detection)."""
        raise NotImplementedError

    def delivered(self, picture: Picture, batch: Batch) -> list[FaceResult]:
        """What is to be said of each face of `batch` in the picture as it was written; nothing where not overridden."""
        return []
