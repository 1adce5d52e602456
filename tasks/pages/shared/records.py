"""What the pages of a run and of an evaluation both tell: the run that restored, its stages, its faces step by step.

Plain records; they know nothing of pixels or pages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated

from pydantic import PlainSerializer

from infra.ledger import Event
from tasks.archive import FileOutcome

Moment = Annotated[datetime, PlainSerializer(datetime.isoformat)]
"""A time that is written down with its zone, as `isoformat` has it."""


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What is known of the run itself.

    `stages` are the recipe's stage ids in order. `stage_seconds` is the time that each stage took in this run on the
    wall (shards in flight overlap, so they may add up to more than `seconds`); a stage without an entry was not
    measured. `weights` maps names to sha256. `links` maps labels to addresses (the Prefect run); only http and https
    become links. `sample` is the share of the files whose stage rows the page was made from (1: all of them).
    """

    run_id: str
    source: str
    workspace: str
    recipe: str
    recipe_digest: str
    started: Moment
    finished: Moment | None = None
    seconds: float | None = None
    description: str = ""
    stages: Sequence[str] = ()
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    software: str = ""
    device: str = ""
    sample: float = 1.0


@dataclass(frozen=True, slots=True)
class StageTotal:
    """One stage in this run: faces (or images) it worked on, those it was spared, tries again, seconds.

    `device_seconds` is time on the device summed over workers, `seconds` is time on the wall, `rate` is faces (or
    images) per second on the wall; None: not measured.
    """

    stage: str
    faces: int
    skipped: int
    retried: int
    device_seconds: float | None
    seconds: float | None
    rate: float | None


@dataclass(frozen=True, slots=True)
class FaceRecord:
    """One face (−1: the picture as a whole): its outcome, its scores by today's names, its steps in recipe order.

    `landmarks` are five points (x, y) in pixels of the upright original, empty where detection did not keep them.
    """

    face: int
    outcome: FileOutcome
    metrics: Mapping[str, float]
    steps: tuple[Event, ...]
    landmarks: tuple[tuple[float, float], ...] = ()
