"""What runs inside a worker process: it reads images, runs a stage on a micro-batch, and writes what comes of it.

Pixels go straight from and to storage here and never through the driver. A finished micro-batch leaves an
intermediate file; one that is found again is not computed again. The worker decides nothing: which faces go through
which stage, and what the ledger says of it, is the driver's business.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from infra.ledger import Event
from infra.storage import Storage, decode_name
from infra.weights import open_store
from tasks.archive import REASONS
from tasks.pictures import SOURCE_TYPE, DecodeError, Limits, Picture, decode, encode, read_header
from tasks.recipes import Recipe, RecipeStage, seed_of, stage_key
from tasks.stage import WHOLE_IMAGE, Batch, Face, FaceStage, ImageStage, Outcome, Pixels, Stage, State
from tasks.worker import intermediate
from tasks.worker.intermediate import Entry
from tasks.worker.items import FaceItem, Item, PasteItem, PictureItem, Result
from tasks.worker.room import NoRoom, Room

VOCABULARY = "http://cv.iptc.org/newscodes/digitalsourcetype"
RESTORED = "restored"
"""The folder of a workspace with the restored files."""
UNSETTLED = ("failed_retryable", "quarantined")
Said = TypeVar("Said")
Made = tuple[Result, Mapping[str, Pixels]]
"""A result, and the named images that its stage wrote."""
Told = Callable[[Outcome], Event]
"""Makes the row of a picture from what became of it."""


class WorkerConfig(BaseModel):
    """Everything a worker needs to know, as plain data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    workspace: str
    recipe: dict[str, Any]
    digests: dict[str, str]
    weights: dict[str, str]
    weights_dir: str
    weights_table: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 1
    max_pixels: int = 300_000_000
    load_at_once: bool = True
    software: str = "mpsr-batch"
    picked: bool = False
    """Single pictures of the source are worked on, beside which the workspace may lie."""


def build(config: Mapping[str, object]) -> Worker:
    """The executor's factory. Weights that do not fit fail here, before a single face is touched."""
    worker = Worker(WorkerConfig.model_validate(config))
    if worker.config.load_at_once:
        for stage in worker.recipe.stages:
            worker.stage(stage)
    return worker


class Worker:
    """Hosts every stage of a recipe; two calls may be inside at once, one reading or writing while one computes."""

    def __init__(self, config: WorkerConfig) -> None:
        self.config = config
        self.recipe = Recipe.parse(config.recipe)
        self.source = Storage(config.source)
        self.workspace = Storage(config.workspace, apart=None if config.picked else self.source)
        self._weights = open_store(config.weights_dir, config.weights_table)
        self._stages: dict[str, Stage] = {}
        self._compute = threading.Lock()
        self._room = Room()
        self._opened = lru_cache(maxsize=8)(self._open)
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        _limit_threads(config.threads)

    def run(self, call: str, items: list[Item]) -> list[Result]:
        """Runs stage `call` on a micro-batch: one result per face, and one per picture looked at."""
        stage = self.recipe.stage(call)
        checkpoint = self._checkpoint(stage, items)
        pastes = any(isinstance(item, PasteItem) for item in items)  # there may lie what another recipe restored
        if not pastes and (left := self._left(checkpoint)):
            return left
        made = (
            self._faces(stage, _faces_of(items), checkpoint)
            if stage.scope == "face"
            else [each for item in items for each in self._picture(stage, item, checkpoint)]
        )
        if not pastes or any(images for _, images in made):
            made = [(replace(result, checkpoint=checkpoint), images) for result, images in made]
            entries = [Entry(_name(result.event), result.to_json(), images) for result, images in made]
            intermediate.write(self.workspace, checkpoint, entries, self.recipe.file.intermediate_dtype)
        return [result for result, _ in made]

    def _left(self, checkpoint: str) -> list[Result] | None:
        """What an earlier run left of the same micro-batch; a failure is no result to be reused."""
        found = intermediate.read(self.workspace, checkpoint)
        try:
            left = [Result.from_json(text) for text in found.texts] if found else []
        except ValidationError:
            return None  # another version wrote it: it is made anew
        settled = all(result.event.state not in UNSETTLED for result in left)
        return [replace(result, reused=True) for result in left] if settled else None

    def _checkpoint(self, stage: RecipeStage, items: Sequence[Item]) -> str:
        named = [(item.stage_key, None if isinstance(item, FaceItem) else item.paths) for item in items]
        members = hashlib.sha256(json.dumps(named).encode()).hexdigest()
        digest = self.config.digests[stage.id]
        return f"intermediates/{stage.id}-{digest[:16]}/{members[:2]}/{members[2:34]}.arrow"

    def _faces(self, stage: RecipeStage, items: Sequence[FaceItem], checkpoint: str) -> list[Made]:
        loaded = self.stage(stage)
        assert isinstance(loaded, FaceStage)
        batch = self._batch(stage, items)
        started = datetime.now(UTC)
        with self._compute:
            results, milliseconds = _timed(lambda: loaded.run(batch))
        made: list[Made] = []
        for item, result in zip(items, results, strict=True):
            outcome, output_uri = result.outcome, checkpoint if result.images else None
            if not all(np.isfinite(image).all() for image in result.images.values()):
                outcome = _quarantined(outcome, "stage_error", f"{stage.id} gave numbers that are not finite")
                output_uri = None
            event = self._event(stage, item.image_id, item.face, outcome, started)
            event = replace(event, output_uri=output_uri, device_ms=milliseconds / len(items))
            made.append((Result(item.key, event), result.images))
        return made

    def _picture(self, stage: RecipeStage, item: Item, checkpoint: str) -> list[Made]:
        """A picture looked at as a whole: its own result, and one for each face that was found in it."""
        assert not isinstance(item, FaceItem)
        started = datetime.now(UTC)

        def told(outcome: Outcome) -> Event:
            return self._event(stage, item.image_id, WHOLE_IMAGE, outcome, started)

        data, problem = self._original(item)
        if data is None:
            return [(Result(item.key, told(problem)), {})]
        if isinstance(item, PasteItem) and not item.faces:
            copied = self._written(told(Outcome(reason_code="nothing_changed")), item, data, data)
            return [(Result(item.key, copied), {})]
        try:
            header = read_header(io.BytesIO(data), Limits(max_pixels=self.config.max_pixels))
            with self._room.of(header.width * header.height):
                return self._seen(stage, item, data, checkpoint, told)
        except DecodeError as error:
            outcome = Outcome(_state_of(error.reason_code), error.reason_code, str(error))
        except NoRoom as error:
            outcome = Outcome("failed_retryable", "out_of_memory", str(error))
        return [(Result(item.key, told(outcome)), {})]

    def _seen(
        self, stage: RecipeStage, item: PictureItem | PasteItem, data: bytes, checkpoint: str, told: Told
    ) -> list[Made]:
        """A picture decoded and given to its stage. Raises DecodeError."""
        started = datetime.now(UTC)
        picture = decode(data, Limits(max_pixels=self.config.max_pixels))
        loaded = self.stage(stage)
        assert isinstance(loaded, ImageStage)
        batch = self._batch(stage, item.faces if isinstance(item, PasteItem) else ())
        with self._compute:
            result, milliseconds = _timed(lambda: loaded.run(picture, batch))
        event = replace(told(result.outcome), device_ms=milliseconds)
        numbered = list(enumerate(result.faces))
        if isinstance(item, PasteItem):
            event, written = self._pasted(event, item, data, result.picture)
            if written is not None:
                seen = loaded.delivered(decode(written, Limits(max_pixels=self.config.max_pixels)), batch)
                numbered = [(face.face, told_of) for face, told_of in zip(batch.faces, seen, strict=False)]
        made: list[Made] = [(Result(item.key, event), {})]
        for number, face in numbered:
            each = self._event(stage, item.image_id, number, face.outcome, started)
            uri = checkpoint if face.images else None
            made.append((Result(item.key, replace(each, output_uri=uri)), face.images))
        return made

    def _original(self, item: PictureItem | PasteItem) -> tuple[bytes | None, Outcome]:
        """The bytes of an item's picture, or why they cannot be had. A file that changed since the scan is left."""
        path = item.paths[0]
        try:
            data = self.source.read_bytes(decode_name(path))
        except FileNotFoundError:
            return None, Outcome("failed_retryable", "disappeared", f"{path} was there at the scan and is gone now")
        except PermissionError as error:
            return None, Outcome("failed_retryable", "unreadable", f"{path} could not be read: {error}")
        if hashlib.sha256(data).hexdigest() != item.image_id:
            reason = f"{path} has changed since the scan; the next run takes it as it is then"
            return None, Outcome("failed_retryable", "changed_while_running", reason)
        return data, Outcome()

    def _pasted(
        self, event: Event, item: PasteItem, data: bytes, picture: Picture | None
    ) -> tuple[Event, bytes | None]:
        """Writes the finished picture, and returns its bytes; the original's where pasting changed nothing."""
        if picture is None:
            return self._written(event, item, data, data), None
        try:
            output = encode(picture, data, self._provenance(item))
        except (ValueError, OSError) as error:  # no storage is touched here: it is the picture that cannot be coded
            reason = f"could not be coded: {error}"
            return replace(event, state="quarantined", reason_code="write_failed", reason=reason), None
        said = {**event.detail, SOURCE_TYPE: self._source_type(item)}
        return self._written(replace(event, detail=said), item, data, output), output

    def _written(self, event: Event, item: PasteItem, original: bytes, output: bytes) -> Event:
        places = [f"{RESTORED}/{path}" for path in item.paths]
        for place, path in zip(places, item.paths, strict=True):
            self.workspace.write_atomic(decode_name(place), output, self._modified(path))
        sha256 = item.image_id if output is original else hashlib.sha256(output).hexdigest()
        return replace(event, output_uri=places[0], output_sha256=sha256, output_bytes=len(output))

    def _modified(self, path: str) -> int | None:
        """When the original was last modified, nanoseconds; None where nobody knows, or it is gone by now."""
        try:
            return self.source.info(decode_name(path)).mtime_ns
        except OSError:
            return None

    def _provenance(self, item: PasteItem) -> dict[str, str]:
        return {
            "software": self.config.software,
            "recipe": self.recipe.name,
            "key": item.stage_key,
            "original": item.image_id,
            "stages": " ".join(dict.fromkeys(self.recipe.stage(name).cls.name for name in item.restored_by)),
            "weights": " ".join(f"{name}:{sha[:16]}" for name, sha in sorted(self.config.weights.items())),
            SOURCE_TYPE: self._source_type(item),
        }

    def _source_type(self, item: PasteItem) -> str:
        """IPTC's word for what the picture has become: a generative stage painted in it, or algorithms enhanced it."""
        painted = any(self.recipe.stage(name).cls.generative for name in item.restored_by)
        return f"{VOCABULARY}/{'compositeWithTrainedAlgorithmicMedia' if painted else 'algorithmicallyEnhanced'}"

    def stage(self, stage: RecipeStage) -> Stage:
        """The stage, loaded."""
        with self._compute:
            if stage.id not in self._stages:
                names = [n for n in (*stage.weights, *stage.optional_weights) if n in self.config.weights]
                loaded = stage.cls(stage.settings, {name: self._weights.path(name) for name in names})
                loaded.load(self.config.device, self.config.dtype)
                self._stages[stage.id] = loaded
        return self._stages[stage.id]

    def _batch(self, stage: RecipeStage, items: Sequence[FaceItem]) -> Batch:
        faces = [
            Face(item.image_id, item.face, seed_of(item.image_id, item.face, stage.id), item.metrics, item.detail)
            for item in items
        ]
        if not items:
            return Batch(faces, {})
        return Batch(faces, {name: np.stack([self._pixels(item, name) for item in items]) for name in stage.reads})

    def _pixels(self, item: FaceItem, name: str) -> Pixels:
        path, image = item.images[name]
        try:
            return self._opened(path).image(item.key, image)
        except (KeyError, ValueError):
            raise self._lost(path) from None

    def _open(self, path: str) -> intermediate.Intermediate:
        found = intermediate.read(self.workspace, path)
        if found is None:
            raise self._lost(path)
        return found

    def _lost(self, path: str) -> OSError:
        """Deletes a damaged intermediate: whoever looks for it finds it gone and makes it anew."""
        self.workspace.delete(path)
        return OSError(f"the intermediate {path} is gone or damaged; run again and it will be made anew")

    def _event(self, stage: RecipeStage, image_id: str, face: int, outcome: Outcome, started: datetime) -> Event:
        digest = self.config.digests[stage.id]
        return Event(
            image_id=image_id,
            face=face,
            stage=stage.id,
            stage_key=stage_key(image_id, face, digest),
            stage_digest=digest,
            state=outcome.state,
            reason_code=outcome.reason_code,
            reason=outcome.reason,
            metrics={name: float(value) for name, value in outcome.metrics.items()},
            detail=dict(outcome.detail),
            worker=self._name,
            started=started,
            finished=datetime.now(UTC),
            device_ms=0.0,
        )


def _faces_of(items: Sequence[Item]) -> list[FaceItem]:
    return [item for item in items if isinstance(item, FaceItem)]


def _name(event: Event) -> str:
    """How a face's images are found in an intermediate: as the key of its item."""
    return f"{event.image_id}:{event.face}"


def _quarantined(outcome: Outcome, reason_code: str, reason: str) -> Outcome:
    return replace(outcome, state="quarantined", reason_code=reason_code, reason=reason)


def _state_of(reason_code: str) -> State:
    states: Mapping[str, State] = {"quarantined": "quarantined", "skipped": "skipped", "failed": "failed_retryable"}
    return states.get(REASONS[reason_code][0], "done")


def _timed(work: Callable[[], Said]) -> tuple[Said, float]:
    """What the work gives, and its milliseconds."""
    began = time.perf_counter()
    result = work()
    return result, (time.perf_counter() - began) * 1000


def _limit_threads(threads: int) -> None:
    """OpenCV and torch would each take every core in every process."""
    import cv2

    cv2.setNumThreads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)
