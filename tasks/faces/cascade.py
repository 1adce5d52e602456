"""Finds faces without any download: scikit-image's LBP cascade proposes, the landmark network decides.

The cascade (Ahonen et al. 2006; Viola and Jones 2001; trained for OpenCV, shipped with scikit-image) runs
over an image pyramid with few demands, which gives many boxes. `LandmarkNet` looks at each twice, the second
time upright, centred on its own points and mirrored as well, keeps what it takes for a face, and tells the five points.
Knows pixels; knows no stage, file or device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tasks.faces.crops import CROP, Box, Jitter, Levels, crop_matrix, cut
from tasks.models.compact.faces import Points, both_ways, box_of_points

LONGER_SIDE = 1600
SMALLEST = 24
SCALE_STEP = 1.15
STRIDE = 1.5
OVERLAP = 0.3
CHUNK = 64


@dataclass(frozen=True, slots=True)
class FaceBox:
    """A face: box (x, y, w, h) in pixels of the picture, score in [0, 1], and five points (5, 2) (x, y).

    Points: eye at image-left, eye at image-right, nose, mouth corner at image-left, mouth corner at image-right.
    """

    x: float
    y: float
    w: float
    h: float
    score: float
    points: Points


def detect_faces(rgb_uint8: Levels, landmark_net: nn.Module, accept: float) -> list[FaceBox]:
    """Find faces of some 24 px and more (at 1600 px on the longer side), best first.

    rgb_uint8: H×W×3 8-bit RGB. landmark_net: a `LandmarkNet` in evaluation mode. accept: lowest score kept.
    Raises ValueError when the picture is not H×W×3 8-bit.
    """
    if rgb_uint8.ndim != 3 or rgb_uint8.shape[2] != 3 or rgb_uint8.dtype != np.uint8:
        raise ValueError(f"detect_faces expects H×W×3 8-bit RGB; got {rgb_uint8.shape} {rgb_uint8.dtype}")
    boxes = propose(rgb_uint8)
    if not boxes:
        return []
    points, first = locate(rgb_uint8, boxes, [0.0] * len(boxes), landmark_net)
    likely = np.flatnonzero(first > 0.2 * accept)
    if len(likely) == 0:
        return []
    turned = [_tilt(points[i]) for i in likely]
    again, second = locate(
        rgb_uint8, [box_of_points(points[i]) for i in likely], turned, partial(both_ways, landmark_net)
    )
    scores = np.sqrt(first[likely] * second)
    faces = [FaceBox(*box_of_points(p), float(s), p) for p, s in zip(again, scores, strict=True) if s >= accept]
    return _strongest(faces)


def propose(rgb_uint8: Levels) -> list[Box]:
    """Boxes (x, y, width, height) that the cascade takes for faces, many of them wrongly."""
    shrink = min(1.0, LONGER_SIDE / max(rgb_uint8.shape[:2]))
    height, width = (max(1, round(side * shrink)) for side in rgb_uint8.shape[:2])
    if min(height, width) < SMALLEST:
        return []
    small = np.asarray(cv2.resize(rgb_uint8, (width, height), interpolation=cv2.INTER_AREA))
    found = _cascade().detect_multi_scale(
        img=np.ascontiguousarray(small),
        scale_factor=SCALE_STEP,
        step_ratio=STRIDE,
        min_size=(SMALLEST, SMALLEST),
        max_size=(min(height, width), min(height, width)),
        min_neighbor_number=1,
    )
    return [(f["c"] / shrink, f["r"] / shrink, f["width"] / shrink, f["height"] / shrink) for f in found]


@cache
def _cascade() -> Any:
    from skimage import data
    from skimage.feature import Cascade

    return Cascade(data.lbp_frontal_face_cascade_filename())


def locate(
    rgb_uint8: Levels, boxes: list[Box], turns: list[float], net: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points (N, 5, 2) in picture pixels and face probabilities (N,) for boxes; turns in degrees upright them."""
    matrices = [crop_matrix(box, Jitter(turn=turn)) for box, turn in zip(boxes, turns, strict=True)]
    crops = np.stack([cut(rgb_uint8, matrix) for matrix in matrices]).transpose(0, 3, 1, 2)
    points, scores = [], []
    with torch.inference_mode():
        for start in range(0, len(crops), CHUNK):
            where, logit = net(torch.from_numpy(np.ascontiguousarray(crops[start : start + CHUNK])).float() / 255)
            points.append(where.double().numpy() * CROP)
            scores.append(torch.sigmoid(logit.double()).numpy())
    placed = [_back(matrix, p) for matrix, p in zip(matrices, np.concatenate(points), strict=True)]
    return np.stack(placed), np.concatenate(scores)


def _back(matrix: NDArray[np.float64], points: Points) -> Points:
    inverse = np.asarray(cv2.invertAffineTransform(matrix))
    return np.asarray(points @ inverse[:, :2].T + inverse[:, 2])


def _tilt(points: Points) -> float:
    """How far the face leans, degrees: the turn that puts its eyes level."""
    across = points[1] - points[0]
    return float(np.degrees(np.arctan2(across[1], across[0])))


def _strongest(faces: list[FaceBox]) -> list[FaceBox]:
    """Non-maximum suppression: of boxes that share a place the best stays."""
    kept: list[FaceBox] = []
    for face in sorted(faces, key=lambda f: f.score, reverse=True):
        if all(_shared(face, other) < OVERLAP for other in kept):
            kept.append(face)
    return kept


def _shared(a: FaceBox, b: FaceBox) -> float:
    """Shared area over the smaller box's area."""
    width = min(a.x + a.w, b.x + b.w) - max(a.x, b.x)
    height = min(a.y + a.h, b.y + b.h) - max(a.y, b.y)
    return max(0.0, width) * max(0.0, height) / min(a.w * a.h, b.w * b.h)
