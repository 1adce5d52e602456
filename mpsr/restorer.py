"""Pictures in memory, restored by a recipe that is loaded once; the same stages, gates and verdicts as in a run."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from flows.jobs import Job
from flows.restoration import FACTORY, FaceVerdict, Planned, Shard, restored
from flows.session import executor_settings, prepare
from infra.ledger import Event
from infra.storage import Storage
from infra.workers import Executor, PoolSize

Picture = str | os.PathLike[str] | bytes | Image.Image | NDArray[Any]
"""A path, a file's bytes, a Pillow image, or an array (H, W), (H, W, 3) or (H, W, 4): uint8, or floats in [0, 1]."""


@dataclass(frozen=True)
class Face:
    """One face: what became of it, what was measured of it, and its box (left, top, width, height) in pixels."""

    outcome: str
    scores: Mapping[str, float]
    box: tuple[float, ...]


@dataclass(frozen=True)
class Result:
    """What came of a picture. `outcome` and `reason` as in docs/outcomes.md.

    image: upright; the picture as it was where nothing was restored, None where it could not be read.
    data: the same as a file in the picture's own container, with its metadata; empty where there is none.
    """

    image: Image.Image | None
    data: bytes
    faces: tuple[Face, ...]
    outcome: str
    reason: str

    @property
    def scores(self) -> dict[str, float]:
        """Means over the faces, of every metric that was measured."""
        names = {name for face in self.faces for name in face.scores}
        return {n: float(np.mean([f.scores[n] for f in self.faces if n in f.scores])) for n in sorted(names)}


class Restorer:
    """A recipe, loaded once. Calls may come from several threads; no call sees another's pictures.

    It keeps a temporary folder and worker threads until `close`, the end of a `with` block, or of the process.
    """

    def __init__(
        self, recipe: str = "compact", *, aligned: bool = False, settings: dict[str, Any] | None = None
    ) -> None:
        """`recipe`: a name or a .toml file. `aligned`: pictures are face crops. `settings`: see docs/settings.md.

        Raises RecipeError, SettingsError, WeightsMissing or ExtraMissing, with a message for people.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="mpsr-restorer-")
        self._inputs, self._workspace = (Storage(Path(self._folder.name) / name) for name in ("inputs", "workspace"))
        job = Job(
            source=self._inputs.url,
            workspace=self._workspace.url,
            recipe=recipe,
            aligned=aligned,
            settings={**(settings or {}), "engine": "local"},
        )
        self._prepared = prepare(job)
        threads = self._prepared.settings.threads or os.cpu_count() or 1
        config = self._prepared.worker_config(self._workspace.url, threads).model_dump(mode="json")
        pool = PoolSize(1, threads=threads, inside=True)
        self._executor = Executor(FACTORY, config, pool=pool, settings=executor_settings(self._prepared.settings))
        self._executor.__enter__()
        self._executor.wait_ready()

    def __call__(self, picture: Picture) -> Result:
        """Restores one picture."""
        return self.many([picture])[0]

    def many(self, pictures: Iterable[Picture]) -> list[Result]:
        """Restores several pictures at once, in their order; faces of all of them share micro-batches.

        Networks round otherwise in another batch: a value may differ by one level from what the picture gives alone.
        """
        given = [_file_of(picture) for picture in pictures]
        call = uuid4().hex
        names: dict[str, str] = {}
        for data, suffix in given:
            image_id = hashlib.sha256(data).hexdigest()
            names[image_id] = f"{call}/{image_id}{suffix}"
            self._inputs.write_atomic(names[image_id], data)
        planned = {image_id: Planned((name,)) for image_id, name in names.items()}
        shard = Shard(call, 0, planned, self._prepared.recipe, self._prepared.digests)
        try:
            self._work(shard)
            results = {v.image_id: self._result(v, shard.faces(v.image_id)) for v in shard.verdicts()}
        finally:
            self._forget(call, shard)
        return [results[hashlib.sha256(data).hexdigest()] for data, _ in given]

    def close(self) -> None:
        """Ends the workers and removes the temporary folder; further calls fail."""
        self._executor.__exit__(None, None, None)
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _work(self, shard: Shard) -> None:
        for stage in self._prepared.recipe.stages:
            items, events = shard.items(stage)
            for done in self._executor.map(stage.id, items, stage.batch_size):
                shard.left(done.results)
                events += [result.event for result in done.results]
                events += [shard.given_up(stage, done.failure)] if done.failure else []
            shard.apply(stage, events)

    def _result(self, verdict: Event, faces: Sequence[FaceVerdict]) -> Result:
        data = self._workspace.read_bytes(verdict.output_uri) if verdict.output_uri else b""
        return Result(
            image=ImageOps.exif_transpose(Image.open(io.BytesIO(data))) if data else None,
            data=data,
            faces=tuple(Face(f.judged.outcome, f.metrics, tuple(f.detail["box"])) for f in faces),
            outcome=verdict.outcome or "pending",
            reason=verdict.reason or verdict.reason_code or "",
        )

    def _forget(self, call: str, shard: Shard) -> None:
        self._inputs.delete_tree(call)
        self._workspace.delete_tree(restored(call))
        for path in shard.intermediates():
            self._workspace.delete(path)


def _file_of(picture: Picture) -> tuple[bytes, str]:
    """A picture as a file: its bytes, and the suffix that goes with them. Pixels become a PNG, which keeps them all."""
    if isinstance(picture, bytes):
        return picture, ""
    if isinstance(picture, (str, os.PathLike)):
        path = Path(picture)
        return path.read_bytes(), path.suffix
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(_levels(picture))
    sink = io.BytesIO()
    image.save(sink, "PNG", compress_level=1)
    return sink.getvalue(), ".png"


def _levels(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Raises ValueError where an array is no picture."""
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4)):
        raise ValueError(f"expected an array (H, W), (H, W, 3) or (H, W, 4), got {pixels.shape}")
    if pixels.dtype == np.uint8:
        return pixels
    if not np.issubdtype(pixels.dtype, np.floating):
        raise ValueError(f"expected uint8 or floats in [0, 1], got {pixels.dtype}")
    return np.asarray(np.rint(pixels.clip(0, 1) * 255), np.uint8)
