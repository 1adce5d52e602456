"""What a run should take and what it took: forecasts from remembered rates, and the check at the end.

Rates are remembered in one small file beside the folder of weights, by machine, recipe and archive. A finished run
that did everything itself leaves better rates than any sample, and they take the sample's place.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from flows.session import PARTS, Prepared, StageCount
from infra.settings import Settings
from infra.storage import Storage
from tasks.recipes import (
    CLOSING_IMAGES,
    CLOSING_SECONDS,
    COMMIT,
    FINE,
    Held,
    Part,
    Rates,
    RecipeStage,
    Shape,
    StageRate,
    foretell,
    scaled,
    size_of,
)

if TYPE_CHECKING:
    from flows.restoration.plan import Plan
    from flows.restoration.run import Run
    from infra.ledger import Ledger

KEPT = 64
"""Entries in the file of rates; the oldest go first."""
WATCHED = 0.5
"""Seconds between command and flow from which on somebody at a terminal waited for Prefect."""
_log = logging.getLogger("mpsr.forecast")


class Memory:
    """The file of rates. Whatever is wrong with it, it is only a memory: reading finds nothing, writing is let be."""

    def __init__(self, settings: Settings, numerics: str, digest: str) -> None:
        """`numerics` is device and dtype, `digest` the recipe's: a changed stage or weights file starts anew."""
        self._path = Path(settings.weights_dir).expanduser().parent / "rates.json"
        pool = f"workers {settings.workers}, threads {settings.threads}, {_where(settings)}"
        self._key = f"{socket.gethostname()}, {os.cpu_count()} cores, {numerics}, {pool}, {digest}"

    def recall(self, source: str) -> Rates | None:
        """The rates of this machine and recipe: of this archive, else of the one measured last."""
        held = self._read().get(self._key, {})
        found = []
        for text in held.values():
            try:
                found.append(Rates.model_validate(text))
            except ValidationError:
                continue  # another version wrote it
        newest = sorted(found, key=lambda rates: (rates.source == source, rates.measured))
        return newest[-1] if newest else None

    def keep(self, rates: Rates) -> Rates:
        """Remembers rates in place of what was known of this archive, and returns what is best known now.

        A run of more pictures stays; what only runs can measure stays when a sample is measured after one.
        """
        known = self.recall(rates.source)
        if known and known.how == "run":
            if known.source == rates.source and known.pictures > rates.pictures:
                return known
            if rates.how != "run":
                rates = rates.model_copy(update={"prefect": known.prefect, "closing": known.closing})
        every = self._read()
        every.setdefault(self._key, {})[rates.source] = rates.model_dump(mode="json")
        try:
            self._write(every)
        except OSError as error:
            _log.warning("could not remember rates in %s: %s", self._path, error)
        return rates

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            held = json.loads(self._path.read_text(encoding="utf-8"))
            return dict(held["rates"]) if held["schema"] == 1 else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _write(self, every: dict[str, dict[str, Any]]) -> None:
        dated = [(rates["measured"], key, source) for key, held in every.items() for source, rates in held.items()]
        for _, key, source in sorted(dated)[:-KEPT]:
            del every[key][source]
        text = json.dumps({"schema": 1, "rates": {key: held for key, held in every.items() if held}}, indent=1)
        Storage(self._path.parent).write_atomic(self._path.name, text.encode())


def _where(settings: Settings) -> str:
    return "this process" if settings.engine == "local" else settings.ray_address or "here"


def memory_of(prepared: Prepared) -> Memory:
    """The rates that are known for this machine, pool and recipe."""
    return Memory(prepared.settings, prepared.numerics, prepared.digests[COMMIT])


def shape_of(plan: Plan, settings: Settings) -> Shape:
    """How the work is cut."""
    return Shape(plan.images, 1 << plan.prefix_bits, settings.shards_in_flight)


def at_the_plan(run: Run, plan: Plan) -> None:
    """States what the run should take, where rates are known. It measures nothing."""
    course = run.course
    course.mark("planned")
    if not plan.images:
        return
    parts = parts_of(plan, run.ledger, run.digests)
    rates, forecast = memory_of(run.prepared).recall(run.source.url), None
    if rates:
        forecast = foretell(
            rates,
            parts,
            shape_of(plan, run.settings),
            prefect=course.between(*PARTS["prefect"]),
            scan=course.between(*PARTS["scan"]),
            price=run.settings.price_per_gpu_hour or None,
            assumed=assumptions(rates, run.source.url),
        )
        run.progress.expected_seconds = forecast.seconds
    course.foretold(parts, forecast)


def at_the_end(run: Run, plan: Plan) -> Held | None:
    """Forecast beside what it took, in percent; None without a forecast. The run's own rates are remembered."""
    course = run.course
    course.mark("closed")
    own = rates_of(run, plan)
    if own:
        memory_of(run.prepared).keep(own)
    if course.forecast is None:
        return None
    took = course.between("asked", "closed")
    told = course.forecast
    return Held(
        **{name: getattr(told, name) for name in type(told).model_fields},
        took_seconds=round(took, 1),
        took_parts={name: round(course.between(*marks), 1) for name, marks in PARTS.items()},
        error_percent=round(100 * (told.seconds / took - 1), 1),
        cost_of_run=told.cost_of(took),
    )


def _sizes(plan: Plan) -> Iterator[tuple[str, int, float]]:
    """Why, how many images, and their size together; a picture of unknown pixels counts as one of average."""
    asked = [("pixels", "sum"), ("pixels", "count"), ("image_id", "count")]
    for row in plan.table.group_by("why").aggregate(asked).to_pylist():
        known, images = row["pixels_count"], row["image_id_count"]
        yield row["why"], images, images * size_of(row["pixels_sum"] / known if known else None)


def parts_of(plan: Plan, ledger: Ledger, digests: Mapping[str, str]) -> list[Part]:
    """The plan in parts: under a changed recipe only stages run that the ledger does not know."""
    counts: dict[bool, tuple[int, float]] = {}
    for why, more, size in _sizes(plan):
        images, total = counts.get(why == "stale", (0, 0.0))
        counts[why == "stale"] = (images + more, total + size)
    parts = [Part(*counts[False])] if False in counts else []
    if True in counts:
        known = set(ledger.query("SELECT DISTINCT stage_digest FROM latest").column("stage_digest").to_pylist())
        fresh = frozenset(name for name, digest in digests.items() if digest not in known)
        parts.append(Part(*counts[True], fresh))
    return parts


def rates_of(run: Run, plan: Plan) -> Rates | None:
    """What a workspace's first run says of the machine; None for later ones, which need not do every stage themselves.

    The stages' own seconds do not hold reading, writing and waiting: all are scaled so that the run comes out as it
    was.
    """
    counts, course = run.progress.stages, run.course
    first, worked = run.recipe.stages[0].id, course.between(*PARTS["work"])
    if not worked or plan.has_history or first not in counts or any(each.reused for each in counts.values()):
        return None
    size = sum(part.size for part in course.parts)
    faces = counts[first].done - plan.images
    known, waited = memory_of(run.prepared).recall(run.source.url), course.between(*PARTS["prefect"])
    rates = Rates(
        stages={stage.id: _rate(stage, counts.get(stage.id), size, faces) for stage in run.recipe.stages},
        faces=faces / size,
        spread=FINE / 2,
        startup=course.between(*PARTS["start_up"]),
        closing=max(0.0, course.between(*PARTS["closing"]) - CLOSING_SECONDS) / min(plan.images, CLOSING_IMAGES),
        prefect=waited if waited > WATCHED else (known.prefect if known else None),
        workers=run.pool.actors,
        devices=max(1, round(run.pool.actors * run.pool.gpus_per_actor)),
        how="run",
        pictures=plan.images,
        source=run.source.url,
        measured=datetime.now(UTC),
    )
    return scaled(rates, worked, course.parts, shape_of(plan, run.settings))


def _rate(stage: RecipeStage, count: StageCount | None, size: float, faces: int) -> StageRate:
    count, of_faces = count or StageCount(), stage.scope == "face"
    per = count.done if of_faces else size
    return StageRate(
        seconds=count.device_seconds / per if per else 0.0,
        share=count.done / faces if of_faces and faces else 1.0,
        faces=of_faces,
        batch=stage.batch_size,
    )


def assumptions(rates: Rates, source: str) -> str:
    """What the forecast takes for granted of this archive, in words; empty where it was measured here."""
    if rates.source == source:
        return ""
    return f"faces per picture and shares of the stages as in another archive, {Storage(rates.source).shown_url}"
