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
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from infra.storage import Storage, StorageMissingError, decode_name
from infra.weights import open_store
from tasks.faces import geometry
from tasks.measuring.files import PROBLEMS
from tasks.measuring.instruments import FacePair
from tasks.measuring.matching import INPUT, RESTORED, ROLES, TRUTH
from tasks.measuring.metrics import Meter, Unmeasurable
from tasks.pictures import DecodeError, Limits, Picture, decode
from tasks.stage import WHOLE_IMAGE, Batch, Pixels
from tasks.stages import WARP_LIMIT, DetectAlign, DetectAlignSettings
from tasks.worker import Row, intermediate

Item = dict[str, Any]
FACES, FID = "faces", "fid"
"""What a pair goes through before any metric: where its faces lie; and the metric that leaves features, no number."""
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
    detector: dict[str, Any] | None
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


@dataclass(frozen=True)
class Located:
    """One face of a pair: landmarks in its crop (5, 2); matrix (2, 3) from the picture, None where it is the crop."""

    points: NDArray[np.float64]
    matrix: NDArray[np.float64] | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain numbers, row by row."""
        matrix = None if self.matrix is None else [float(value) for value in self.matrix.reshape(-1)]
        return {"points": [float(value) for value in self.points.reshape(-1)], "matrix": matrix}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Located:
        """The inverse of `to_dict`."""
        matrix = None if plain["matrix"] is None else np.array(plain["matrix"]).reshape(2, 3)
        return cls(np.array(plain["points"]).reshape(5, 2), matrix)


@dataclass
class Measured:
    """What is known of one face: values, metrics that could not be taken and why, milliseconds of each."""

    values: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    milliseconds: dict[str, float] = field(default_factory=dict)
    features: NDArray[np.float32] | None = None


def build(config: dict[str, Any]) -> Measurer:
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
        self._meter = Meter(config.metrics, paths, config.device)
        self._detector = None if config.detector is None else _detector(config, paths)
        self._limits = Limits(max_pixels=config.max_pixels)
        self._compute = threading.Lock()
        self._name = f"{socket.gethostname()}:{os.getpid()}"

    def run(self, call: str, items: list[Item]) -> list[Row]:
        """Measures the pairs of a micro-batch: for each a row with face -1, and one for every face in it."""
        checkpoint = self._checkpoint(items)
        found = intermediate.read(self._workspace, checkpoint)
        if found is not None and all(row["state"] != "failed_retryable" for row in found.rows):
            return [{**row, "reused": True} for row in found.rows]
        rows: list[Row] = []
        features: list[dict[str, Pixels]] = []
        for item in items:
            for row, measured in self._pair(item):
                has_features = measured is not None and measured.features is not None
                rows.append(row | {"checkpoint": checkpoint, "output_uri": checkpoint if has_features else None})
                features.append({FID: measured.features} if measured and measured.features is not None else {})
        intermediate.write(self._workspace, checkpoint, rows, features, "float32")
        return rows

    def _checkpoint(self, items: Sequence[Item]) -> str:
        asked = [(item["key"], [(name, self.config.digests[name]) for name in item["metrics"]]) for item in items]
        members = hashlib.sha256(json.dumps([asked, self.config.digests[FACES]]).encode()).hexdigest()
        return f"intermediates/{members[:2]}/{members[2:34]}.arrow"

    def _pair(self, item: Item) -> list[tuple[Row, Measured | None]]:
        """The pair's own row, and one per face. A pair that cannot be measured has its own row only."""
        started = _now()
        try:
            pictures = {role: self._picture(item, role) for role in ROLES if item.get(role)}
            _check_sizes(pictures)
            faces = [Located.from_dict(each) for each in item.get("faces") or []] or self._locate(item, pictures[INPUT])
        except PairProblem as problem:
            state = "failed_retryable" if problem.retryable else "quarantined"
            return [(self._row(item, started, state, problem.reason_code, str(problem)), None)]
        if not faces:
            return [(self._row(item, started, "skipped", "no_face", PROBLEMS["no_face"]), None)]
        measured = [self._measure(item, pictures, face) for face in faces]
        whole = self._row(item, started, "done", "ok", "")
        each = [
            (self._face_row(whole, n, face, result), result)
            for n, (face, result) in enumerate(zip(faces, measured, strict=True))
        ]
        return [(whole, None), *each]

    def _picture(self, item: Item, role: str) -> Picture:
        """The decoded picture of one role. Raises PairProblem."""
        path = item[role]
        try:
            data = self._trees[role].read_bytes(decode_name(path))
        except StorageMissingError:
            raise PairProblem("disappeared", f"{role} {path} was there and is gone", retryable=True) from None
        except PermissionError as error:
            raise PairProblem("unreadable", f"{role} {path} could not be read: {error}", retryable=True) from None
        if hashlib.sha256(data).hexdigest() != item[f"{role}_sha256"]:
            sentence = f"{role} {path} has changed since it was paired; run again to take it as it is then"
            raise PairProblem("changed_while_running", sentence, retryable=True)
        try:
            return decode(data, self._limits)
        except DecodeError as error:
            raise PairProblem(error.reason_code, f"{role} {path}: {error}") from None

    def _locate(self, item: Item, given: Picture) -> list[Located]:
        """The faces of a pair, from the table, the template, or the detector's look at the input."""
        if item.get("points"):
            return [Located(np.array(item["points"], np.float64).reshape(5, 2))]
        if self._detector is None:
            return [Located(geometry.TEMPLATE)]
        with self._compute:
            result = self._detector.run(given, Batch([], {}))
        details = [face.outcome.detail for face in result.faces]
        matrices = [np.array(detail["matrix"], np.float64) for detail in details]
        return [
            Located(geometry.transform(np.array(detail["points"], np.float64), matrix), matrix)
            for detail, matrix in zip(details, matrices, strict=True)
        ]

    def _measure(self, item: Item, pictures: Mapping[str, Picture], face: Located) -> Measured:
        crops = {role: _crop(picture.pixels, face.matrix) for role, picture in pictures.items()}
        pair = FacePair(crops[RESTORED], crops[INPUT], crops.get(TRUTH), face.points)
        measured = Measured()
        for name in item["metrics"]:
            with self._compute:
                began = time.perf_counter()
                self._take(name, pair, measured)
                measured.milliseconds[name] = (time.perf_counter() - began) * 1000
        return measured

    def _take(self, name: str, pair: FacePair, into: Measured) -> None:
        """One metric of one face; what cannot be measured is said, and costs the face no other number."""
        try:
            if name == FID:
                into.features = self._meter.features(pair)
                return
            value = self._meter.measure(pair, [name])[name]
        except Unmeasurable as error:
            into.failed[name] = str(error)
            return
        if np.isfinite(value):
            into.values[name] = float(value)
        else:
            into.failed[name] = f"{name} gave {value}, which is no number to be averaged"

    def _row(self, item: Item, started: str, state: str, reason_code: str, reason: str) -> Row:
        return {
            "key": item["key"],
            "image_id": item["key"],
            "face": WHOLE_IMAGE,
            "metrics": item["metrics"],
            "state": state,
            "reason_code": reason_code,
            "reason": reason,
            "worker": self._name,
            "started": started,
            "finished": _now(),
        }

    def _face_row(self, whole: Row, number: int, face: Located, measured: Measured) -> Row:
        known = {"values": measured.values, "failed": measured.failed, "milliseconds": measured.milliseconds}
        return whole | {"face": number, "detail": face.to_dict(), "finished": _now(), **known}


def _detector(config: MeasureConfig, paths: Mapping[str, Any]) -> DetectAlign:
    settings = DetectAlignSettings.model_validate(config.detector)
    detector = DetectAlign(settings, {name: paths[name] for name in DetectAlign.weights_needed(settings)})
    detector.load(config.device, "float32")
    return detector


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


def _now() -> str:
    return datetime.now(UTC).isoformat()
