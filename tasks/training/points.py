"""Better points for the landmark network to learn from and to be measured against: the mean of YuNet over five scales.

One detection's points are off by some 4 % of the distance between the eyes, differently at each size of the picture.
Knows faces and one ONNX file; knows no networks of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tasks.faces import Levels
from tasks.training.data import Face

EYE_DISTANCES = (24, 34, 48, 68, 96)
"""Pixels between the eyes in the five sizes that a photograph is looked at."""
SAME = 0.5
"""Another face's points lie further off than this share of the distance between the eyes."""
CONFIDENCE = 0.5


def with_mean_points(faces: Sequence[Face], yunet: Path) -> list[Face]:
    """The same faces with the mean of what YuNet sees at five scales for points, in the photograph's pixels.

    `yunet` is its ONNX file. Faces without a photograph, and those that YuNet misses at every scale, stay as they are.
    Raises FileNotFoundError without the file.
    """
    if not yunet.is_file():
        raise FileNotFoundError(
            f"expected YuNet's ONNX file at {yunet}, found nothing there: `mpsr models pull yunet` fetches it, and "
            "without it the points of portraits.csv serve"
        )
    detector = cv2.FaceDetectorYN.create(str(yunet), "", (320, 320), CONFIDENCE, 0.3, 50)
    return [replace(face, points=_mean_points(face, detector)) for face in faces]


def _mean_points(face: Face, detector: Any) -> NDArray[np.float64] | None:
    if face.photograph is None or face.points is None:
        return face.points
    found = [_points_at(face.photograph, face.points, eyes, detector) for eyes in EYE_DISTANCES]
    seen = [points for points in found if points is not None]
    return np.mean(seen, axis=0) if seen else face.points


def _points_at(
    photograph: Levels, rough: NDArray[np.float64], eyes: float, detector: Any
) -> NDArray[np.float64] | None:
    """What is seen of the face at `rough` (5, 2), once the picture is so large that its eyes are `eyes` apart."""
    scale = eyes / float(np.linalg.norm(rough[0] - rough[1]))
    height, width = (max(1, round(side * scale)) for side in photograph.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    resized = cv2.resize(np.ascontiguousarray(photograph[..., ::-1]), (width, height), interpolation=method)
    detector.setInputSize((width, height))
    rows = detector.detect(resized)[1]
    stretch = np.array([photograph.shape[1] / width, photograph.shape[0] / height])
    candidates = np.empty((0, 5, 2)) if rows is None else rows[:, 4:14].reshape(-1, 5, 2).astype(np.float64) * stretch
    apart = np.linalg.norm(candidates - rough, axis=2).mean(axis=1) * scale / eyes
    near = candidates[apart < SAME]
    return near[apart[apart < SAME].argmin()] if len(near) else None
