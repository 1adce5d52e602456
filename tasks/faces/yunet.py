"""YuNet: boxes and five landmarks of the faces in a picture, at several scales (Wu et al., 2023; OpenCV's runtime).

The network finds faces of roughly 10 to 300 pixels, so a picture is searched at several sizes; and since one
detection's landmarks are off by 1 to 1.5 % of the face's width, every face is looked at again in crops of several
sizes and the landmarks are averaged. It knows pixels and one ONNX file; it knows nothing of stages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Levels8 = NDArray[np.uint8]
Points = NDArray[np.float64]

SMALLEST_SIDE = 320
"""Longest side in pixels of the smallest size at which a picture is searched."""
OVERLAP = 0.3
"""Boxes whose intersection over union exceeds this are the same face."""
VIEWS = (160, 224, 320)
"""Sides in pixels of the crops in which a face is looked at again."""
CONTEXT = 2.2
"""Side of such a crop in sides of the face's box."""


@dataclass(frozen=True, slots=True)
class Found:
    """A detected face in picture pixels: box (left, top, width, height), landmarks (5, 2) float64, confidence."""

    box: tuple[float, float, float, float]
    points: Points
    confidence: float

    @property
    def side(self) -> float:
        """The longer side of the box."""
        return max(self.box[2:])


class YuNet:
    """The detector, loaded once. Not to be shared between threads."""

    def __init__(self, model: Path, confidence: float, working_side: int) -> None:
        """confidence: least score, 0 to 1. working_side: longest side in pixels of the largest size searched."""
        self._confidence = confidence
        self._working_side = working_side
        self._network = cv2.FaceDetectorYN.create(str(model), "", (320, 320), confidence, 0.3, 5000)

    def faces(self, rgb: Levels8) -> list[Found]:
        """Faces of a picture (H, W, 3), the most confident first."""
        bgr = np.ascontiguousarray(rgb[..., ::-1])
        candidates = [face for scale in self._scales(bgr) for face in self._search(bgr, scale)]
        again = [self._looked_at_again(bgr, face) for face in apart(candidates)]
        return apart([face for face in again if face is not None])

    def _scales(self, bgr: Levels8) -> Iterator[float]:
        longest = max(bgr.shape[:2])
        side = min(self._working_side, max(2 * longest, SMALLEST_SIDE))
        while side >= SMALLEST_SIDE:
            yield side / longest
            side /= 2

    def _search(self, bgr: Levels8, scale: float) -> list[Found]:
        width, height = (max(1, round(length * scale)) for length in bgr.shape[1::-1])
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        return self._detect(cv2.resize(bgr, (width, height), interpolation=method), scale, (0.0, 0.0))

    def _detect(self, bgr: Levels8, scale: float, corner: tuple[float, float]) -> list[Found]:
        self._network.setInputSize((bgr.shape[1], bgr.shape[0]))
        rows = self._network.detect(bgr)[1]
        found = []
        for row in np.empty((0, 15)) if rows is None else rows.astype(np.float64):
            left, top, width, height = row[:4] / scale
            points = row[4:14].reshape(5, 2) / scale + corner
            found.append(Found((left + corner[0], top + corner[1], width, height), points, float(row[14])))
        return found

    def _looked_at_again(self, bgr: Levels8, face: Found) -> Found | None:
        """The face with box and landmarks averaged over several views of it; None where no view shows a face."""
        seen = [again for side in VIEWS if (again := self._view(bgr, face, side))]
        if not seen:
            return None
        points = np.mean([each.points for each in seen], axis=0)
        box = np.mean([each.box for each in seen], axis=0)
        return Found(tuple(box.tolist()), points, face.confidence)

    def _view(self, bgr: Levels8, face: Found, side: int) -> Found | None:
        left, top, width, height = face.box
        part = max(round(CONTEXT * face.side), 2)
        x, y = round(left + (width - part) / 2), round(top + (height - part) / 2)
        method = cv2.INTER_AREA if side < part else cv2.INTER_LINEAR
        crop = cv2.resize(_padded_part(bgr, x, y, part), (side, side), interpolation=method)
        same = [each for each in self._detect(crop, side / part, (x, y)) if overlap(each, [face])[0] > OVERLAP]
        return max(same, key=lambda each: each.confidence, default=None)


def _padded_part(image: Levels8, x: int, y: int, side: int) -> Levels8:
    """The square at (x, y), its outside filled with the picture's edge pixels."""
    height, width = image.shape[:2]
    rows, columns = (np.clip(np.arange(side) + at, 0, limit - 1) for at, limit in ((y, height), (x, width)))
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1][np.ix_(rows - rows[0], columns - columns[0])]


def apart(faces: Sequence[Found]) -> list[Found]:
    """The most confident of each heap of overlapping boxes, best first."""
    waiting = sorted(faces, key=lambda face: face.confidence, reverse=True)
    kept: list[Found] = []
    for face in waiting:
        if not kept or overlap(face, kept).max() <= OVERLAP:
            kept.append(face)
    return kept


def overlap(face: Found, others: Sequence[Found]) -> NDArray[np.float64]:
    """Intersection over union of a face's box with each of the others'."""
    boxes = np.array([other.box for other in others])
    left, top, width, height = face.box
    across = np.minimum(left + width, boxes[:, 0] + boxes[:, 2]) - np.maximum(left, boxes[:, 0])
    down = np.minimum(top + height, boxes[:, 1] + boxes[:, 3]) - np.maximum(top, boxes[:, 1])
    shared = np.clip(across, 0, None) * np.clip(down, 0, None)
    whole = width * height + boxes[:, 2] * boxes[:, 3] - shared
    return np.asarray(shared / np.maximum(whole, 1e-9), np.float64)
