"""What runs inside a worker process: it reads images, runs a stage on a micro-batch, and writes what comes of it.

Pixels go straight from and to storage here and never through the driver. A finished micro-batch leaves an
intermediate file (tasks.intermediate); one that is found again is not computed again. The worker decides nothing:
which faces go through which stage, and what the ledger says of it, is the driver's business.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from infra.storage import Storage, decode_name
from infra.weights import open_store
from tasks.archive import books
from tasks.pictures import DecodeError, Limits, Picture, decode, encode
from tasks.recipes import Recipe, RecipeStage, seed_of
from tasks.stage import WHOLE_IMAGE, Batch, Face, FaceStage, ImageStage, Outcome, Pixels, Stage
from tasks.worker import intermediate
from tasks.worker.intermediate import Row, row_key

Item = dict[str, Any]
RESTORED = "restored"
UNSETTLED = ("failed_retryable", "quarantined")


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


def build(config: dict[str, Any]) -> Worker:
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
        self.workspace = Storage(config.workspace)
        self._weights = open_store(config.weights_dir, config.weights_table)
        self._stages: dict[str, Stage] = {}
        self._compute = threading.Lock()
        self._opened = lru_cache(maxsize=8)(self._open)
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        _limit_threads(config.threads)

    def run(self, call: str, items: list[Item]) -> list[Row]:
        """Runs stage `call` on a micro-batch and returns its rows, each with the `key` of its item."""
        stage = self.recipe.stage(call)
        checkpoint = self._checkpoint(stage, items)
        pastes = any("faces" in item for item in items)  # what lies in the restored tree may be of another recipe
        found = None if pastes else intermediate.read(self.workspace, checkpoint)
        if found is not None and all(row["state"] not in UNSETTLED for row in found.rows):
            return [{**row, "reused": True} for row in found.rows]  # a failure is no result to be reused
        work = self._images if stage.scope == "image" else self._faces
        rows, images = work(stage, items, checkpoint)
        if not pastes:
            intermediate.write(self.workspace, checkpoint, rows, images, self.recipe.file.intermediate_dtype)
        return rows

    def _checkpoint(self, stage: RecipeStage, items: Sequence[Item]) -> str:
        members = hashlib.sha256(json.dumps([(i["stage_key"], i.get("paths")) for i in items]).encode()).hexdigest()
        digest = self.config.digests[stage.id]
        return f"intermediates/{stage.id}-{digest[:16]}/{members[:2]}/{members[2:34]}.arrow"

    def _faces(
        self, stage: RecipeStage, items: list[Item], checkpoint: str
    ) -> tuple[list[Row], list[dict[str, Pixels]]]:
        loaded = self.stage(stage)
        assert isinstance(loaded, FaceStage)
        batch = self._batch(stage, items)
        started = _now()
        with self._compute:
            results, milliseconds = _timed(lambda: loaded.run(batch))
        rows = [
            self._row(item, item["face"], result.outcome, started, milliseconds / len(items))
            for item, result in zip(items, results, strict=True)
        ]
        images = [dict(result.images) for result in results]
        for row, written in zip(rows, images, strict=True):
            row["output_uri"] = checkpoint if written else None
            row["checkpoint"] = checkpoint
            if not all(np.isfinite(image).all() for image in written.values()):
                reason = f"{stage.id} gave numbers that are not finite"
                row |= {"state": "quarantined", "reason_code": "stage_error", "reason": reason, "output_uri": None}
        return rows, images

    def _images(
        self, stage: RecipeStage, items: list[Item], checkpoint: str
    ) -> tuple[list[Row], list[dict[str, Pixels]]]:
        rows: list[Row] = []
        images: list[dict[str, Pixels]] = []
        for item in items:
            new_rows, new_images = self._image(stage, item, checkpoint)
            rows += new_rows
            images += new_images
        return rows, images

    def _image(self, stage: RecipeStage, item: Item, checkpoint: str) -> tuple[list[Row], list[dict[str, Pixels]]]:
        started = _now()
        data, problem = self._original(item)
        if data is None or problem is not None:
            return [self._row(item, WHOLE_IMAGE, problem or Outcome(), started, 0.0)], [{}]
        if item.get("copy"):
            return [self._copy(item, data, started)], [{}]
        try:
            picture = decode(data, Limits(max_pixels=self.config.max_pixels))
        except DecodeError as error:
            outcome = Outcome(_state_of(error.reason_code), error.reason_code, str(error))
            return [self._row(item, WHOLE_IMAGE, outcome, started, 0.0)], [{}]
        loaded = self.stage(stage)
        assert isinstance(loaded, ImageStage)
        batch = self._batch(stage, item.get("faces", []))
        with self._compute:
            result, milliseconds = _timed(lambda: loaded.run(picture, batch))
        image_row = self._row(item, WHOLE_IMAGE, result.outcome, started, milliseconds)
        if result.picture is not None:
            self._encode_restored(item, data, result.picture, image_row)
        elif "faces" in item:  # pasting changed nothing: the restored tree gets the original, byte for byte
            self._write_restored(item, data, data, image_row)
        face_rows = [self._row(item, n, face.outcome, started, 0.0) for n, face in enumerate(result.faces)]
        for row in face_rows:
            row["output_uri"] = row["checkpoint"] = checkpoint
        return [image_row, *face_rows], [{}, *(dict(face.images) for face in result.faces)]

    def _original(self, item: Item) -> tuple[bytes | None, Outcome | None]:
        """The bytes of an item's image, or why they cannot be had. A file that changed since the scan is left."""
        path = item["paths"][0]
        try:
            data = self.source.read_bytes(decode_name(path))
        except FileNotFoundError:
            return None, Outcome("failed_retryable", "disappeared", f"{path} was there at the scan and is gone now")
        except PermissionError as error:
            return None, Outcome("failed_retryable", "unreadable", f"{path} could not be read: {error}")
        if hashlib.sha256(data).hexdigest() != item["image_id"]:
            reason = f"{path} has changed since the scan; the next run takes it as it is then"
            return None, Outcome("failed_retryable", "changed_while_running", reason)
        return data, None

    def _copy(self, item: Item, data: bytes, started: str) -> Row:
        row = self._row(item, WHOLE_IMAGE, Outcome(reason_code="nothing_changed"), started, 0.0)
        self._write_restored(item, data, data, row)
        return row

    def _encode_restored(self, item: Item, data: bytes, picture: Picture, row: Row) -> None:
        try:
            output = encode(picture, data, self._provenance(item))
        except (ValueError, OSError) as error:  # no storage is touched here: it is the picture that cannot be coded
            row |= {"state": "quarantined", "reason_code": "write_failed", "reason": f"could not be coded: {error}"}
            return
        self._write_restored(item, data, output, row)

    def _write_restored(self, item: Item, original: bytes, output: bytes, row: Row) -> None:
        for path in item["paths"]:
            self.workspace.write_atomic(decode_name(f"{RESTORED}/{path}"), output)
        row["outputs"] = [f"{RESTORED}/{path}" for path in item["paths"]]
        row["output_uri"] = row["outputs"][0]
        row["output_sha256"] = item["image_id"] if output is original else hashlib.sha256(output).hexdigest()

    def _provenance(self, item: Item) -> dict[str, str]:
        return {
            "software": self.config.software,
            "recipe": self.recipe.name,
            "key": item["stage_key"],
            "original": item["image_id"],
            "weights": " ".join(f"{name}:{sha[:16]}" for name, sha in sorted(self.config.weights.items())),
        }

    def stage(self, stage: RecipeStage) -> Stage:
        """The stage, loaded."""
        with self._compute:
            if stage.id not in self._stages:
                names = [n for n in (*stage.weights, *stage.optional_weights) if n in self.config.weights]
                loaded = stage.cls(stage.settings, {name: self._weights.path(name) for name in names})
                loaded.load(self.config.device, self.config.dtype)
                self._stages[stage.id] = loaded
        return self._stages[stage.id]

    def _batch(self, stage: RecipeStage, items: Sequence[Item]) -> Batch:
        faces = [
            Face(
                i["image_id"],
                i["face"],
                seed_of(i["image_id"], i["face"], stage.id),
                i.get("metrics", {}),
                i.get("detail", {}),
            )
            for i in items
        ]
        if not items:
            return Batch(faces, {})
        return Batch(faces, {name: np.stack([self._pixels(i, name) for i in items]) for name in stage.reads})

    def _pixels(self, item: Item, name: str) -> Pixels:
        path, image = item["images"][name]
        return self._opened(path).image(row_key(item), image)

    def _open(self, path: str) -> intermediate.Intermediate:
        found = intermediate.read(self.workspace, path)
        if found is None:
            self.workspace.delete(path)  # cut short: the next run finds it gone and makes it anew
            raise OSError(f"the intermediate {path} is gone or cut short; run again and it will be made anew")
        return found

    def _row(self, item: Item, face: int, outcome: Outcome, started: str, milliseconds: float) -> Row:
        return {
            "key": item["key"],
            "image_id": item["image_id"],
            "face": face,
            "state": outcome.state,
            "reason_code": outcome.reason_code,
            "reason": outcome.reason,
            "metrics": {name: float(value) for name, value in outcome.metrics.items()},
            "detail": dict(outcome.detail),
            "output_uri": None,
            "worker": self._name,
            "started": started,
            "finished": _now(),
            "device_ms": milliseconds,
        }


def _state_of(reason_code: str) -> Any:
    states: Mapping[str, str] = {"quarantined": "quarantined", "skipped": "skipped", "failed": "failed_retryable"}
    return states.get(books.REASONS[reason_code][0], "done")


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    result = work()
    return result, (time.perf_counter() - began) * 1000


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _limit_threads(threads: int) -> None:
    """OpenCV and torch would each take every core in every process."""
    import cv2

    cv2.setNumThreads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)
