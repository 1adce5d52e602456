"""What runs inside a worker of an evaluation: it reads the pictures of a pair, cuts out the faces and measures them.

All pictures of a pair are cut by one matrix, the input's. A finished micro-batch leaves an intermediate file with its
rows and, for FID, the faces' features; one that is found again is not computed again. Which pairs lack which metrics
is the driver's business.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from infra.ledger import Event
from infra.storage import Storage, StorageMissingError, decode_name
from infra.weights import open_store
from tasks.faces import Alignment, geometry
from tasks.measuring.files import PROBLEMS
from tasks.measuring.instruments import FacePair, exact_kernels
from tasks.measuring.meter import Meter, Unmeasurable
from tasks.measuring.pairs import (
    FACES,
    FID,
    INPUT,
    RESTORED,
    TRUTH,
    Located,
    PairFile,
    PairItem,
    PairResult,
    at_stage,
    result_of_whole,
)
from tasks.pictures import DecodeError, Limits, Picture, decode
from tasks.stage import Batch, Detail, Pixels
from tasks.stages import WARP_LIMIT, DetectAlign, DetectAlignSettings
from tasks.worker import Entry, intermediate

CODE_VERSION = 1
"""Raised whenever the same pair would be cut into other faces."""


class MeasureConfig(BaseModel):
    """Everything a worker needs to know, as plain data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trees: dict[str, str]
    """Role of tasks.matching → address."""
    workspace: str
    metrics: tuple[str, ...]
    weights: tuple[str, ...]
    digests: dict[str, str]
    """Of alignment and of each metric: everything that its numbers depend on beside the pair."""
    detector: DetectAlignSettings | None
    """Settings of tasks.detect_align; None where the pictures are aligned faces."""
    weights_dir: str
    weights_table: str | None = None
    device: str = "cpu"
    threads: int = 1
    max_pixels: int = 300_000_000


class PairProblem(Exception):
    """Why a pair cannot be measured: a reason code, a sentence, and whether another try may help."""

    def __init__(self, reason_code: str, sentence: str, *, retryable: bool = False) -> None:
        super().__init__(sentence)
        self.reason_code = reason_code
        self.retryable = retryable


Made = tuple[PairResult, Mapping[str, Pixels]]
"""A result, and what is kept for FID."""


def build(config: Mapping[str, object]) -> Measurer:
    """The executor's factory."""
    return Measurer(MeasureConfig.model_validate(config))


class Measurer:
    """Hosts the meter and, where faces have to be found, the detector; reading and measuring may overlap."""

    def __init__(self, config: MeasureConfig) -> None:
        import cv2

        cv2.setNumThreads(config.threads)
        self.config = config
        self._trees = {role: Storage(url) for role, url in config.trees.items()}
        self._workspace = Storage(config.workspace)
        store = open_store(config.weights_dir, config.weights_table)
        paths = {name: store.path(name) for name in config.weights}
        if config.weights:
            exact_kernels()
        self._meter = Meter(config.metrics, paths, config.device)
        self._detector = None if config.detector is None else _detector(config.detector, paths, config.device)
        self._limits = Limits(max_pixels=config.max_pixels)
        self._compute = threading.Lock()
        self._name = f"{socket.gethostname()}:{os.getpid()}"

    def run(self, call: str, items: Sequence[PairItem]) -> list[PairResult]:
        """Measures the pairs of a micro-batch: for each a result as a whole, and one for every face in it."""
        checkpoint = self._checkpoint(items)
        if left := self._left(checkpoint):
            return left
        made = [(_left_in(checkpoint, *each), each[1]) for item in items for each in self._pair(item)]
        entries = [Entry(f"{result.key}:{result.face}", result.to_json(), kept) for result, kept in made]
        intermediate.write(self._workspace, checkpoint, entries, "float32")
        return [result for result, _ in made]

    def _left(self, checkpoint: str) -> list[PairResult] | None:
        """What an earlier run left of the same micro-batch; a failure is no result to be reused."""
        found = intermediate.read(self._workspace, checkpoint)
        try:
            left = [PairResult.from_json(text) for text in found.texts] if found else []
        except ValidationError:
            return None  # another version wrote it: it is made anew
        settled = all(event.state != "failed_retryable" for result in left for event in result.events)
        return [replace(result, reused=True) for result in left] if settled else None

    def _checkpoint(self, items: Sequence[PairItem]) -> str:
        asked = [(item.key, [(stage, self.config.digests[stage]) for stage in item.lacking]) for item in items]
        members = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
        return f"intermediates/{members[:2]}/{members[2:34]}.arrow"

    def _pair(self, item: PairItem) -> list[Made]:
        """The pair as a whole, and each of its faces. A pair that cannot be measured has no faces."""
        event = Event(image_id=item.key, state="done", reason_code="ok", worker=self._name, started=datetime.now(UTC))
        try:
            pictures = {role: self._picture(role, file) for role, file in item.files.items()}
            _check_sizes(pictures)
            faces = item.faces or self._locate(item, pictures[INPUT])
        except PairProblem as problem:
            state = "failed_retryable" if problem.retryable else "quarantined"
            return [self._whole(item, event, state, problem.reason_code, str(problem))]
        if not faces:
            return [self._whole(item, event, "skipped", "no_face", PROBLEMS["no_face"])]
        measured = [self._face(item, pictures, face, replace(event, face=n)) for n, face in enumerate(faces)]
        return [self._whole(item, event, "done", "ok", ""), *measured]

    def _whole(self, item: PairItem, event: Event, state: str, reason_code: str, reason: str) -> Made:
        ended = replace(event, state=state, reason_code=reason_code, reason=reason, finished=datetime.now(UTC))
        return result_of_whole(item, ended, self.config.digests), {}

    def _picture(self, role: str, file: PairFile) -> Picture:
        """The decoded picture of one role. Raises PairProblem."""
        try:
            data = self._trees[role].read_bytes(decode_name(file.path))
        except StorageMissingError:
            raise PairProblem("disappeared", f"{role} {file.path} was there and is gone", retryable=True) from None
        except PermissionError as error:
            raise PairProblem("unreadable", f"{role} {file.path} could not be read: {error}", retryable=True) from None
        if hashlib.sha256(data).hexdigest() != file.sha256:
            sentence = f"{role} {file.path} has changed since it was paired; run again to take it as it is then"
            raise PairProblem("changed_while_running", sentence, retryable=True)
        try:
            return decode(data, self._limits)
        except DecodeError as error:
            raise PairProblem(error.reason_code, f"{role} {file.path}: {error}") from None

    def _locate(self, item: PairItem, given: Picture) -> tuple[Located, ...]:
        """The faces of a pair, from the table, the template, or the detector's look at the input."""
        if item.points:
            return (Located(np.array(item.points, np.float64).reshape(5, 2)),)
        if self._detector is None:
            return (Located(geometry.TEMPLATE),)
        with self._compute:
            result = self._detector.run(given, Batch([], {}))
        return tuple(_in_its_crop(face.outcome.detail) for face in result.faces)

    def _face(self, item: PairItem, pictures: Mapping[str, Picture], face: Located, event: Event) -> Made:
        """Where a face lies, if that was lacking, and every metric that was."""
        crops = {role: _crop(picture.pixels, face.matrix) for role, picture in pictures.items()}
        pair = FacePair(crops[RESTORED], crops[INPUT], crops.get(TRUTH), face.points)
        digests, kept = self.config.digests, dict[str, Pixels]()
        events = [self._taken(at_stage(event, metric, digests), pair, kept) for metric in item.metrics]
        if FACES in item.lacking:
            found = at_stage(replace(event, detail=face.to_detail(), finished=datetime.now(UTC)), FACES, digests)
            events = [found, *events]
        return PairResult(item.key, event.face, "ok", tuple(events)), kept

    def _taken(self, event: Event, pair: FacePair, kept: dict[str, Pixels]) -> Event:
        """The metric that an event is of; what cannot be measured is said, and costs the face no other number."""
        with self._compute:
            began = time.perf_counter()
            try:
                if event.stage != FID:
                    event = replace(event, metrics=self._meter.measure(pair, [event.stage]))
                elif (features := self._meter.features(pair)) is not None:
                    kept[FID] = features
            except Unmeasurable as error:
                event = replace(event, state="quarantined", reason_code="measure_failed", reason=str(error))
            milliseconds = (time.perf_counter() - began) * 1000
        return replace(event, device_ms=milliseconds, finished=datetime.now(UTC))


def _left_in(checkpoint: str, result: PairResult, kept: Mapping[str, Pixels]) -> PairResult:
    """The result with the file that it lies in; rows whose images are kept name it, too."""
    events = (replace(event, output_uri=checkpoint) if event.stage in kept else event for event in result.events)
    return replace(result, events=tuple(events), checkpoint=checkpoint)


def _detector(settings: DetectAlignSettings, paths: Mapping[str, Path], device: str) -> DetectAlign:
    detector = DetectAlign(settings, {name: paths[name] for name in DetectAlign.weights_needed(settings)})
    detector.load(device, "float32")
    return detector


def _in_its_crop(detail: Detail) -> Located:
    """A face as the detector says it, with the landmarks where its crop shows them."""
    found = Alignment.from_detail(detail)
    return Located(geometry.transform(found.points, found.matrix), found.matrix)


def _check_sizes(pictures: Mapping[str, Picture]) -> None:
    sizes = {role: f"{picture.width}×{picture.height}" for role, picture in pictures.items()}
    if len(set(sizes.values())) > 1:
        said = ", ".join(f"{role} {size}" for role, size in sizes.items())
        raise PairProblem("sizes_differ", f"expected pictures of one size, came {said}")


def _crop(pixels: Pixels, matrix: NDArray[np.float64] | None) -> Pixels:
    """A face, (512, 512, 3); of a picture larger than OpenCV can warp, only the part around it is looked at."""
    if matrix is None:
        return pixels
    if max(pixels.shape[:2]) >= WARP_LIMIT:
        corners = geometry.transform(
            np.array([[0, 0], [0, 1], [1, 0], [1, 1]]) * geometry.SIDE, geometry.inverse(matrix)
        )
        margin = np.ptp(corners, axis=0).max()
        left, top = np.maximum(corners.min(axis=0) - margin, 0).astype(int)
        right, bottom = (corners.max(axis=0) + margin).astype(int)
        pixels, matrix = pixels[top:bottom, left:right], matrix.copy()
        matrix[:, 2] += matrix[:, :2] @ np.array([left, top])
    return geometry.crop(pixels, matrix, antialias=True)
