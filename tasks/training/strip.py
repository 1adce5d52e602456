"""A strip of faces to look at after a training: what the network was given, what it made, and the truth."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from torch import nn

from tasks.archive import Image, degrade
from tasks.faces import Levels
from tasks.training.data import Face, to_float
from tasks.training.measure import ROWS, run_picture

FACES = 12
SIDE = 160


def write_strip(name: str, net: nn.Module, faces: list[Face], path: Path) -> Path | None:
    """Write a picture of up to 12 faces, three rows for each of the network's degradations; returns where it is.

    Networks that give no picture leave none, and None is returned.
    """
    if name not in ROWS:
        return None
    columns = []
    for seed, face in enumerate(faces[:: max(1, len(faces) // FACES)][:FACES]):
        truth = to_float(face.aligned)
        cells: list[Image] = []
        for draw in ROWS[name].values():
            given = degrade(truth, draw(seed), seed)
            cells += [given, run_picture(net, given), truth]
        columns.append(np.concatenate([_small(cell) for cell in cells]))
    cv2.imwrite(str(path), np.concatenate(columns, axis=1)[..., ::-1])
    return path


def _small(image: Image) -> Levels:
    reduced = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(np.clip(reduced, 0, 1) * 255 + 0.5, np.uint8)
