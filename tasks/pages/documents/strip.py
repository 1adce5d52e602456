"""Pictures of single faces side by side: the same crop of several files, in one JPEG.

It gets decoded pictures and gives bytes; it knows nothing of files, metrics or pages.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tasks.faces import SIDE, crop
from tasks.pictures import Pixels, to_levels

PANEL = 256
GAP = 4
QUALITY = 88


def picture_strip(pictures: Sequence[Pixels], matrix: NDArray[np.float64] | None, panel: int = PANEL) -> bytes:
    """The face in each of the pictures (H, W, 3), RGB in [0, 1], from left to right.

    matrix: (2, 3) from a picture to its 512-pixel crop; none where the pictures are the crop.
    """
    panels = [_panel(picture, matrix, panel) for picture in pictures]
    gap = np.full((panel, GAP, 3), 128, np.uint8)
    row = [part for each in panels for part in (gap, each)][1:]
    sink = io.BytesIO()
    Image.fromarray(np.hstack(row)).save(sink, "JPEG", quality=QUALITY, optimize=True)
    return sink.getvalue()


def _panel(picture: Pixels, matrix: NDArray[np.float64] | None, panel: int) -> NDArray[np.uint8]:
    face = picture if matrix is None else crop(picture, matrix, SIDE, antialias=True)
    small = cv2.resize(face, (panel, panel), interpolation=cv2.INTER_AREA)
    return np.asarray(to_levels(np.asarray(small, np.float32), 8), np.uint8)
