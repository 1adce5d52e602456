"""How long a recipe takes, told from few pictures: which ones to measure, and what their rates say of the rest.

Arithmetic over sizes, counts and seconds. It knows neither workers nor ledgers nor clocks.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, computed_field

FLOOR = 0.25
"""Megapixels added to every picture: reading, writing and faces do not shrink with its area."""
LARGEST = 40.0
"""Pictures of more megapixels are not measured; their time follows from their size."""
SHARD_STAGE_SECONDS = 0.13
"""What one stage of one shard costs beside the workers' time: a Prefect task, a segment of the ledger. Measured."""
CLOSING_SECONDS = 2.0
CLOSING_SECONDS_PER_IMAGE = 0.1
"""Fold, totals and report where no run on this machine has measured them."""
CLOSING_IMAGES = 1000
"""The pictures in a report are bounded; beyond about so many images its time hardly grows."""
PREFECT_SHARE, PREFECT_SECONDS = 0.75, 60.0
"""Prefect and its server where no run has measured them: this share of the start of Ray and workers, and no more."""
SECOND_START = 0.8
"""A run starts Ray and workers faster than the pre-flight before it, which finds fewer files in memory. Measured."""
ROUGH, FINE = 0.35, 0.1
"""How far start and end, and the work itself, differ between two runs on one machine; half of the range shown."""


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StageRate(_Facts):
    """Seconds of one worker: per size for stages of pictures, per face for stages of faces.

    `share` is the part of all found faces that the stage takes (1 for stages of pictures).
    """

    seconds: float
    share: float = 1.0
    faces: bool = True
    batch: int = 1


class Rates(_Facts):
    """What was measured of a recipe on a machine, and of an archive: enough to foretell any amount of work.

    `startup`, `closing`, `prefect` in seconds (`closing` per image, beyond CLOSING_SECONDS); `faces` per size;
    `spread` is the standard error of seconds per size, as a share, that comes from the choice of pictures.
    """

    stages: dict[str, StageRate]
    faces: float
    spread: float
    startup: float
    closing: float = CLOSING_SECONDS_PER_IMAGE
    prefect: float | None = None
    workers: int
    devices: int
    how: Literal["pre-flight", "run"]
    pictures: int
    source: str
    measured: datetime


@dataclass(frozen=True)
class Part:
    """Images that go through the same stages (None: all); `size` is the sum over them."""

    images: int
    size: float
    stages: frozenset[str] | None = None


@dataclass(frozen=True)
class Shape:
    """How the work is cut: images to do, shards they are spread over, and shards at the same time."""

    images: int
    shards: int
    in_flight: int


class Forecast(_Facts):
    """What a run should take: seconds from the command to the report, and the range in which they should lie."""

    seconds: float
    low: float
    high: float
    parts: dict[str, float]
    images: int
    faces: int
    shares: dict[str, float]
    workers: int
    devices: int
    price_per_gpu_hour: float | None = None
    how: str
    pictures: int
    measured: datetime
    assumed: str = ""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def device_hours(self) -> float:
        """GPUs (or machines) × hours."""
        return round(self.devices * self.seconds / 3600, 5)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def cost(self) -> float | None:
        """In the price's currency; None without a price."""
        return self.cost_of(self.seconds)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def cost_low(self) -> float | None:
        """Of the lower end of the range."""
        return self.cost_of(self.low)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def cost_high(self) -> float | None:
        """Of the upper end of the range."""
        return self.cost_of(self.high)

    def cost_of(self, seconds: float) -> float | None:
        """What so many seconds cost, in the price's currency; None without a price."""
        price = self.price_per_gpu_hour
        return None if price is None else round(self.devices * seconds / 3600 * price, 4)


class Held(Forecast):
    """A forecast beside what the run took. error_percent: how much more (below 0: less) was foretold than taken."""

    model_config = ConfigDict(extra="ignore")  # what is computed is written, too

    took_seconds: float
    took_parts: dict[str, float]
    error_percent: float
    cost_of_run: float | None = None


def size_of(pixels: float | None) -> float:
    """The size of a picture that time is counted by: megapixels and FLOOR; 1 megapixel where it is not known."""
    return FLOOR + (1.0 if pixels is None else pixels / 1e6)


def choose(sizes: Mapping[str, float], count: int) -> dict[str, float]:
    """At most `count` pictures, large ones more likely, and how many times each counts: image_id → weight ≥ 1.

    Systematic sampling with probability proportional to size (Madow 1949) along the ids, which are hashes: the same
    archive gives the same pictures, and weighted sums are unbiased. The order is that of the ids, not of size.
    """
    usable = {i: s for i, s in sizes.items() if s <= LARGEST + FLOOR} or dict(sizes)
    certain = _certain(usable, count)
    rest = sorted(set(usable) - certain)
    picks = dict.fromkeys(certain, 1.0)
    if rest and count > len(certain):
        step = sum(usable[i] for i in rest) / (count - len(certain))
        reached, mark = 0.0, step * _fraction(rest[0])
        for image_id in rest:
            reached += usable[image_id]
            if reached > mark:
                picks[image_id] = step / usable[image_id]
                mark += step
    return dict(sorted(picks.items()))


def _fraction(text: str) -> float:
    """A number of [0, 1) that is as good as drawn, and always the same."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16) / 16**12


def _certain(sizes: Mapping[str, float], count: int) -> set[str]:
    """Pictures so large that a draw in proportion to size takes each of them in any case."""
    total, certain = sum(sizes.values()), set[str]()
    for image_id in sorted(sizes, key=lambda i: (-sizes[i], i)):
        if len(certain) >= count or sizes[image_id] * (count - len(certain)) < total:
            break
        certain.add(image_id)
        total -= sizes[image_id]
    return certain


def per_size(values: Mapping[str, float], sizes: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Weighted ratio estimate of value per size over the pictures measured; 0 without any."""
    total = sum(weights[i] * sizes[i] for i in values)
    return sum(weights[i] * value for i, value in values.items()) / total if total else 0.0


def spread(values: Mapping[str, float], sizes: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Standard error of `per_size`, as a share of it: from pictures that stand for others, too (weight > 1)."""
    rate, n = per_size(values, sizes, weights), len(values)
    if n < 2 or not rate:
        return 0.5
    off = [(weights[i] * (value - rate * sizes[i])) ** 2 * (1 - 1 / weights[i]) for i, value in values.items()]
    return math.sqrt(sum(off) * n / (n - 1)) / (rate * sum(weights[i] * sizes[i] for i in values))


def work_seconds(rates: Rates, parts: Sequence[Part], shape: Shape) -> float:
    """Seconds between workers that stand and the last verdict.

    The workers' seconds shared out evenly, and what one shard takes longer than that: with a single shard nothing
    overlaps, with several only the end of the last one stands alone.
    """
    shards = max(1, min(shape.images, shape.shards))
    even, alone, tasks = 0.0, 0.0, 0
    for name, rate in rates.stages.items():
        items, seconds = _amount(name, rate, rates, parts)
        if items:
            tasks += 1
            even += seconds / rates.workers
            alone += _alone(items / shards, seconds / items, rate.batch, rates.workers)
    beside = tasks * SHARD_STAGE_SECONDS
    before = (shards - 1) / shards * max(even, shards * beside / shape.in_flight)
    return before + alone + beside


def _amount(name: str, rate: StageRate, rates: Rates, parts: Sequence[Part]) -> tuple[float, float]:
    """Items (pictures or faces) of a stage, and the seconds of one worker for all of them."""
    through = [part for part in parts if part.stages is None or name in part.stages]
    size = sum(part.size for part in through)
    if not rate.faces:
        return sum(part.images for part in through), size * rate.seconds
    items = size * rates.faces * rate.share
    return items, items * rate.seconds


def _alone(items: float, seconds: float, batch: int, workers: int) -> float:
    """Seconds for one shard's items in micro-batches handed to whichever worker is free."""
    busy = [0.0] * workers
    full, rest = divmod(items, batch)
    if full > 64 * workers:
        return items * seconds / workers + batch * seconds / 2
    for amount in [*[float(batch)] * int(full), rest]:
        heapq.heapreplace(busy, busy[0] + amount * seconds)
    return max(busy)


def scaled(rates: Rates, seconds: float, parts: Sequence[Part], shape: Shape) -> Rates:
    """The same rates times one number, so that the parts take `seconds`."""
    factor = seconds / work_seconds(rates, parts, shape)
    stages = {name: rate.model_copy(update={"seconds": rate.seconds * factor}) for name, rate in rates.stages.items()}
    return rates.model_copy(update={"stages": stages})


def foretell(
    rates: Rates,
    parts: Sequence[Part],
    shape: Shape,
    *,
    prefect: float | None,
    scan: float,
    price: float | None = None,
    assumed: str = "",
) -> Forecast:
    """The forecast of a run; seconds for Prefect and for the scan are known already, or None.

    Prefect and its server, until a run measured them, are taken to need a share of what Ray and the workers need: both
    mostly start processes and import.
    """
    images, size = sum(part.images for part in parts), sum(part.size for part in parts)
    work = work_seconds(rates, parts, shape)
    if prefect is None:
        prefect = min(PREFECT_SECONDS, PREFECT_SHARE * rates.startup) if rates.prefect is None else rates.prefect
    closing = CLOSING_SECONDS + rates.closing * min(images, CLOSING_IMAGES)
    times = {"prefect": prefect, "scan": scan, "start_up": rates.startup, "work": work, "closing": closing}
    seconds = sum(times.values())
    doubt = ROUGH * (prefect + rates.startup + closing) + max(FINE, 2 * rates.spread) * work
    return Forecast(
        seconds=round(seconds, 1),
        low=round(max(scan, seconds - doubt), 1),
        high=round(seconds + doubt, 1),
        parts={name: round(value, 1) for name, value in times.items()},
        images=images,
        faces=round(size * rates.faces),
        shares={name: round(rate.share, 4) for name, rate in rates.stages.items() if rate.share < 1},
        workers=rates.workers,
        devices=rates.devices,
        price_per_gpu_hour=price,
        how=rates.how,
        pictures=rates.pictures,
        measured=rates.measured,
        assumed=assumed,
    )
