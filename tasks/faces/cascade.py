"""Finds faces without any download: scikit-image's LBP cascade proposes, the landmark network decides.

The cascade (Ahonen et al. 2006; Viola and Jones 2001; trained for OpenCV, shipped with scikit-image) runs
over an image pyramid with few demands, which gives many boxes. It knows upright faces only, so the picture is shown
to it leaning either way as well, and with a border, for faces that an edge cuts or that fill the frame; where nothing
is found, lying and upside down, too. `LandmarkNet` looks at each twice, the second
time upright, centred on its own points and mirrored as well, keeps what it takes for a face, and tells the five points.
Knows pixels; knows no stage, file or device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

LONGER_SIDE, VIEWED_SIDE = 1600, 1000
"""Longer side in px at which the cascade looks at a picture as it is, and in other views."""
SMALLEST, VIEWED_SMALLEST = 24, 56
"""Side in px of the smallest face that is looked for, and in other views: small things there cost most and mislead."""
SCALE_STEP = 1.15
STRIDE = 1.5
OVERLAP = 0.3
CHUNK = 64
BORDER = 0.3
"""Border around a picture, in shares of its shorter side, filled with its edge."""
LEANING = (None, 0.0, 25.0, -25.0)
LYING = (90.0, 180.0, 270.0)
"""How far the picture is turned for the cascade, degrees anticlockwise: always, and where no face was found.

None = as it is, without the border that all other views have."""


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
    return _found(rgb_uint8, LEANING, landmark_net, accept) or _found(rgb_uint8, LYING, landmark_net, accept)


def _found(rgb_uint8: Levels, angles: Sequence[float | None], net: nn.Module, accept: float) -> list[FaceBox]:
    proposed = [(box, angle or 0.0) for angle in angles for box in propose(rgb_uint8, angle)]
    if not proposed:
        return []
    boxes, turns = zip(*proposed, strict=True)
    points, first = locate(rgb_uint8, boxes, turns, net)
    likely = np.flatnonzero(first > 0.2 * accept)
    if len(likely) == 0:
        return []
    turned = [_tilt(points[i]) for i in likely]
    again, second = locate(rgb_uint8, [box_of_points(points[i]) for i in likely], turned, partial(both_ways, net))
    scores = np.sqrt(first[likely] * second)
    faces = [FaceBox(*box_of_points(p), float(s), p) for p, s in zip(again, scores, strict=True) if s >= accept]
    return _strongest(faces)


def propose(rgb_uint8: Levels, angle: float | None = None) -> list[Box]:
    """Boxes (x, y, width, height) that the cascade takes for faces in one view (`LEANING`), many of them wrongly.

    They are upright boxes around the same centres in the picture as it is; they may leave it.
    """
    shrink = min(1.0, (LONGER_SIDE if angle is None else VIEWED_SIDE) / max(rgb_uint8.shape[:2]))
    height, width = (max(1, round(side * shrink)) for side in rgb_uint8.shape[:2])
    if min(height, width) < SMALLEST:
        return []
    small = np.asarray(cv2.resize(rgb_uint8, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    border = 0 if angle is None else round(BORDER * min(height, width))
    turned, back = _turned(small, angle or 0.0, border)
    found = _cascade().detect_multi_scale(
        img=turned,
        scale_factor=SCALE_STEP,
        step_ratio=STRIDE,
        min_size=(SMALLEST if angle is None else VIEWED_SMALLEST,) * 2,
        max_size=(min(turned.shape[:2]),) * 2,
        min_neighbor_number=1,
    )
    sides = np.array([(f["width"], f["height"]) for f in found], np.float64).reshape(-1, 2)
    corners = np.array([(f["c"], f["r"]) for f in found], np.float64).reshape(-1, 2)
    middles = (corners + sides / 2) @ back[:, :2].T + back[:, 2]
    return [(*corner, *side) for corner, side in zip((middles - sides / 2) / shrink, sides / shrink, strict=True)]


def _turned(picture: Levels, angle: float, border: int) -> tuple[Levels, NDArray[np.float64]]:
    """The picture turned, with its border, and the matrix (2, 3) from there back to the picture."""
    height, width = (side + 2 * border for side in picture.shape[:2])
    matrix = cv2.getRotationMatrix2D((picture.shape[1] / 2, picture.shape[0] / 2), angle, 1.0)
    across, along = abs(matrix[0, 0]), abs(matrix[0, 1])
    size = round(width * across + height * along), round(width * along + height * across)
    matrix[:, 2] += np.array(size) / 2 - np.array([picture.shape[1] / 2, picture.shape[0] / 2])
    turned = cv2.warpAffine(picture, matrix, size, borderMode=cv2.BORDER_REPLICATE)
    return np.ascontiguousarray(turned, np.uint8), np.asarray(cv2.invertAffineTransform(matrix))


@cache
def _cascade() -> Any:
    from skimage import data
    from skimage.feature import Cascade

    return Cascade(data.lbp_frontal_face_cascade_filename())


def locate(
    rgb_uint8: Levels, boxes: Sequence[Box], turns: Sequence[float], net: Callable[[Tensor], tuple[Tensor, Tensor]]
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
