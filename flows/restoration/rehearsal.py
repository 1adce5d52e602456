"""The pre-flight: a recipe measured on a few pictures of the archive with the workers a run would have.

It reads the archive, works in a temporary folder and leaves nothing behind. Neither Prefect nor a ledger takes part.
What the numbers mean is tasks.preflight's business; who remembers them is flows.forecast's.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from flows.restoration.run import FACTORY
from flows.restoration.shard import Planned, Shard
from flows.session import Prepared, planned_pool
from infra.ledger import Event, Ledger
from infra.problems import ForPeople
from tasks.recipes import SECOND_START, Rates, RecipeStage, StageRate, choose, per_size, size_of, spread
from tasks.stage import WHOLE_IMAGE
from tasks.worker import Item

if TYPE_CHECKING:
    from flows.restoration.plan import Plan
    from infra.workers import ClusterFacts, Executor

PICTURES = 12
BUDGET_SECONDS = 20.0
"""Time for all stages together; each stage finishes at least one micro-batch per worker."""
CALL_SECONDS = 300.0
"""A call that takes longer is given up, and its pictures with it."""


class NoPreflight(ForPeople):
    """A pre-flight cannot be made here; the message says why."""


@dataclass(frozen=True)
class Chunk:
    """A part of a stage's items, worked on by all workers at once. `host` and `wall` in seconds."""

    items: int
    events: list[Event]
    host: float
    wall: float

    @property
    def computing(self) -> float:
        """Seconds inside the stage itself, over all workers."""
        return sum(event.device_ms or 0.0 for event in self.events) / 1000


def measure(prepared: Prepared, plan: Plan, ledger: Ledger) -> Rates:
    """Rates of the recipe on this machine and this archive, from a few pictures of what is to be done.

    Raises NoPreflight where the cluster has several machines, or no picture of the sample could be worked on.
    """
    from infra.workers import Executor, ExecutorSettings

    begun = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="mpsr-preflight-") as folder,
        planned_pool(prepared.settings, prepared.device, PICTURES) as (facts, pool),
    ):
        _refuse_several(facts)
        config = prepared.worker_config(folder, pool.threads).model_copy(update={"load_at_once": True})
        patience = ExecutorSettings(window=1, retries=0, call_timeout=CALL_SECONDS)
        with Executor(FACTORY, config.model_dump(mode="json"), pool=pool, settings=patience) as executor:
            executor.wait_ready()
            startup = time.monotonic() - begun
            rehearsal = Rehearsal(executor, prepared, pool.actors, _sizes(plan), ledger)
            rehearsal.run()
    gpus = round(pool.gpus_per_actor * pool.actors)
    return rehearsal.rates(prepared.job.source, startup, gpus, overlaps=prepared.device == "cuda")


class Rehearsal:
    """A sample of pictures on its way through a recipe, as far as the time reaches."""

    def __init__(
        self, executor: Executor, prepared: Prepared, workers: int, sizes: Mapping[str, float], ledger: Ledger
    ) -> None:
        self.sizes, self.executor, self.recipe, self.workers = sizes, executor, prepared.recipe, workers
        self.weights = choose(sizes, max(PICTURES, 2 * workers))
        names = ledger.files(image_ids=list(self.weights), columns=["image_id", "path"]).to_pydict()
        chosen = {i: Planned((path,)) for i, path in zip(names["image_id"], names["path"], strict=True)}
        self.shard = Shard("preflight", 0, chosen, prepared.recipe, prepared.digests)
        self.chunks: dict[str, list[Chunk]] = {}
        self.shares: dict[str, float] = {}
        self._left: set[str] = set()  # items that time did not reach; later stages leave them, too

    def run(self) -> None:
        """Every stage in turn; half of what is left of the budget is the next stage's."""
        ends = time.monotonic() + BUDGET_SECONDS
        for stage in self.recipe.stages:
            now = time.monotonic()
            self._run_stage(stage, now + max(0.0, ends - now) / 2)

    def _run_stage(self, stage: RecipeStage, ends: float) -> None:
        """The first item of every worker alone, for what happens only once; then micro-batches while time is left."""
        items, shut = self.shard.items(stage)
        self.shard.apply(stage, shut)
        items = [item for item in items if item.key not in self._left]
        if stage.scope == "face":
            self.shares[stage.id] = self._weight(items) / max(self._weight(self._found()), 1e-9)
        batch = max(1, min(stage.batch_size, (len(items) - self.workers) // self.workers))
        batch = 1 if stage.scope == "image" else batch
        self.chunks[stage.id] = []
        while items and not (self.chunks[stage.id] and time.monotonic() > ends):
            size = batch if self.chunks[stage.id] else 1
            chunk, items = items[: self.workers * size], items[self.workers * size :]
            self.chunks[stage.id].append(self._run_chunk(stage, chunk, size))
        self._left |= {item.key for item in items}

    def _run_chunk(self, stage: RecipeStage, items: list[Item], batch: int) -> Chunk:
        before, begun = self._host_seconds(stage), time.monotonic()
        done = list(self.executor.map(stage.id, items, batch))
        wall, events = time.monotonic() - begun, [result.event for each in done for result in each.results]
        self._left |= {each.failure.item.key for each in done if each.failure}
        self.shard.apply(stage, events)
        return Chunk(len(items), events, self._host_seconds(stage) - before, wall)

    def _host_seconds(self, stage: RecipeStage) -> float:
        calls = self.executor.stats().calls
        return calls[stage.id].host_seconds if stage.id in calls else 0.0

    def _found(self) -> list[Event]:
        """The faces that detection found, without those that time did not reach later."""
        events = [event for chunk in self.chunks[self.recipe.stages[0].id] for event in chunk.events]
        return [e for e in events if e.face != WHOLE_IMAGE and f"{e.image_id}:{e.face}" not in self._left]

    def _weight(self, items: Sequence[Item | Event]) -> float:
        return sum(self.weights[item.image_id] for item in items)

    def rates(self, source: str, startup: float, gpus: int, *, overlaps: bool) -> Rates:
        """What was measured. `overlaps`: reading and writing goes on beside the computing, as on a GPU."""
        faces = self._per_picture(self.chunks[self.recipe.stages[0].id], lambda event: event.metrics.get("faces", 0.0))
        if not faces:
            raise NoPreflight(f"none of {len(self.weights)} pictures could be worked on; `mpsr run` will say why")
        stages = {stage.id: self._rate(stage, overlaps) for stage in self.recipe.stages}
        seconds = self._seconds_by_picture(stages, faces)
        return Rates(
            stages=stages,
            faces=per_size(faces, self.sizes, self.weights),
            spread=spread(seconds, self.sizes, self.weights),
            startup=SECOND_START * startup + sum(_warming(chunks, self.workers) for chunks in self.chunks.values()),
            workers=self.workers,
            devices=max(1, gpus),
            how="pre-flight",
            pictures=len(faces),
            source=source,
            measured=datetime.now(UTC),
        )

    def _rate(self, stage: RecipeStage, overlaps: bool) -> StageRate:
        """Seconds per size for pictures (each weighted by what it stands for), per face for faces."""
        chunks = self.chunks[stage.id][1:] or self.chunks[stage.id]
        computing, items = sum(chunk.computing for chunk in chunks), sum(chunk.items for chunk in chunks)
        beside = max(0.0, sum(chunk.host for chunk in chunks) - computing)
        if stage.scope == "face":
            each = (computing / items, beside / items) if items else (0.0, 0.0)
        else:
            times = self._per_picture(chunks, lambda event: (event.device_ms or 0.0) / 1000)
            size = sum(self.sizes[image_id] for image_id in times)
            each = (per_size(times, self.sizes, self.weights), beside / size if size else 0.0)
        return StageRate(
            seconds=max(each) if overlaps else sum(each),
            share=self.shares.get(stage.id, 1.0),
            faces=stage.scope == "face",
            batch=stage.batch_size,
        )

    def _per_picture(self, chunks: Sequence[Chunk], value: Callable[[Event], float]) -> dict[str, float]:
        events = [event for chunk in chunks for event in chunk.events]
        return {event.image_id: float(value(event)) for event in events if event.face == WHOLE_IMAGE}

    def _seconds_by_picture(self, stages: Mapping[str, StageRate], faces: Mapping[str, float]) -> dict[str, float]:
        """What each picture should take in all by the rates: the spread comes from how these differ."""
        by_size = sum(rate.seconds for rate in stages.values() if not rate.faces)
        by_face = sum(rate.seconds * rate.share for rate in stages.values() if rate.faces)
        return {image_id: by_size * self.sizes[image_id] + by_face * n for image_id, n in faces.items()}


def _warming(chunks: Sequence[Chunk], workers: int) -> float:
    """How much longer each worker's first item took than those after it, as seconds of a run."""
    if len(chunks) < 2:
        return 0.0
    each = sum(chunk.host for chunk in chunks[1:]) / sum(chunk.items for chunk in chunks[1:])
    return max(0.0, chunks[0].host - each * chunks[0].items) / workers


def _sizes(plan: Plan) -> dict[str, float]:
    """image_id → size of every picture to be done."""
    columns = plan.table.select(["image_id", "pixels"]).to_pydict()
    return {image_id: size_of(n) for image_id, n in zip(columns["image_id"], columns["pixels"], strict=True)}


def _refuse_several(facts: ClusterFacts) -> None:
    if len(facts.nodes) > 1:
        raise NoPreflight(
            "the cluster has several machines, which share no temporary folder; the first run measures them"
        )
