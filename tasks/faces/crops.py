"""How a rough face box becomes the 64×64 crop that the landmark network sees, in training and in use alike.

Knows pixels, boxes and OpenCV; knows neither networks nor files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from tasks.models.compact.faces import landmark_crop

CROP = 64
Levels: TypeAlias = NDArray[np.uint8]
Box: TypeAlias = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Jitter:
    """How the crop differs from the box's own: shares of the box's side, a factor, degrees anticlockwise."""

    shift_x: float = 0.0
    shift_y: float = 0.0
    scale: float = 1.0
    turn: float = 0.0


def crop_matrix(box: Box, jitter: Jitter) -> NDArray[np.float64]:
    """The 2×3 matrix that takes picture pixels to crop pixels, for a box (x, y, width, height)."""
    x, y, side = landmark_crop(box)
    centre = x + side / 2 + jitter.shift_x * box[2], y + side / 2 + jitter.shift_y * box[3]
    matrix = cv2.getRotationMatrix2D(centre, jitter.turn, CROP / (side * jitter.scale))
    matrix[:, 2] += CROP / 2 - np.array(centre)
    return np.asarray(matrix, np.float64)


def cut(picture: Levels, matrix: NDArray[np.float64], border: int = cv2.BORDER_REPLICATE) -> Levels:
    """Cut a crop out of an 8-bit picture, reducing it first by the whole factor that leaves enough pixels."""
    factor = int(1 / float(np.hypot(matrix[0, 0], matrix[0, 1])))
    reduced = matrix.copy()
    if factor > 1:
        picture, reduced = _near(picture, reduced)
        size = max(1, picture.shape[1] // factor), max(1, picture.shape[0] // factor)
        stretch = np.diag([picture.shape[1] / size[0], picture.shape[0] / size[1]])
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
        reduced[:, :2] = reduced[:, :2] @ stretch
    reduced[:, 2] += reduced[:, :2] @ np.array([0.5, 0.5]) - 0.5
    return np.asarray(cv2.warpAffine(picture, reduced, (CROP, CROP), borderMode=border), np.uint8)


def _near(picture: Levels, matrix: NDArray[np.float64]) -> tuple[Levels, NDArray[np.float64]]:
    """The part of a picture around a crop, so that a small face in a huge picture costs little."""
    back = np.asarray(cv2.invertAffineTransform(matrix))
    corners = np.array([[0, 0], [CROP, 0], [0, CROP], [CROP, CROP]]) @ back[:, :2].T + back[:, 2]
    margin = 0.1 * np.ptp(corners, axis=0)
    low = np.clip(np.floor(corners.min(axis=0) - margin), 0, np.array(picture.shape[1::-1]) - 1).astype(int)
    high = np.maximum(np.ceil(corners.max(axis=0) + margin).astype(int), low + 1)
    moved = matrix.copy()
    moved[:, 2] += matrix[:, :2] @ low
    return picture[low[1] : high[1], low[0] : high[0]], moved
