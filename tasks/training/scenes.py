"""What the portraits lack: other surroundings, natural light, and the frames of cut-out faces.

Pictures are reduced aligned faces, H×W×3 float32 in [0, 1]; everything drawn comes from a generator that is given.
Knows neither torch nor networks.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from tasks.archive import Image

FRAMES = ((0.0, 0.0, 0.0), (132 / 255, 133 / 255, 135 / 255), (1.0, 1.0, 1.0))
"""Black, the grey that aligned faces get where the photograph ends, white."""


def elsewhere(image: Image, rng: np.random.Generator) -> Image:
    """The face before other things, or with other clothes as well, in natural light."""
    share = (_behind if rng.random() < 0.5 else _round_the_head)(image)
    return lit_naturally(image * (1 - share) + _scenery(image.shape[0], rng) * share, rng)


def _behind(image: Image) -> Image:
    """How much each pixel has the colour of the upper corners, above the shoulders and beside the head."""
    side = image.shape[0]
    corner = side // 8
    colour = np.median(np.concatenate([image[:corner, :corner], image[:corner, -corner:]]).reshape(-1, 3), axis=0)
    distance = np.linalg.norm(image - colour.astype(np.float32), axis=2)
    share = np.exp(-((distance / 0.15) ** 2)) * (_radius(side, 0.3, 0.42) > 1)
    return np.asarray(cv2.blur(share.astype(np.float32), (3, 3))[..., None], np.float32)


def _round_the_head(image: Image) -> Image:
    """All but an oval with the head and the neck in it."""
    return np.asarray(np.clip((_radius(image.shape[0], 0.36, 0.52) - 0.95) / 0.2, 0, 1)[..., None], np.float32)


def _radius(side: int, across: float, down: float) -> NDArray[np.float64]:
    y, x = np.mgrid[0:side, 0:side] / side
    return np.asarray(np.hypot((x - 0.5) / across, (y - 0.52) / down))


def _scenery(side: int, rng: np.random.Generator) -> Image:
    """Blotches of colour, coarse and fine, round a colour of their own."""
    blotches, colourful = np.zeros((side, side, 3), np.float32), rng.uniform(0, 0.5)
    for cells in (2, 4, 8, 16):
        grey, colour = rng.normal(0, 1, (cells, cells, 1)), rng.normal(0, colourful, (cells, cells, 3))
        coarse = (grey + colour).astype(np.float32) / np.float32(cells**0.5)
        blotches += cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    tone = rng.uniform(0.05, 0.9) * np.exp(rng.normal(0, 0.25, 3))
    return np.asarray(np.clip(tone + rng.uniform(0.03, 0.3) * blotches, 0, 1), np.float32)


def lit_naturally(image: Image, rng: np.random.Generator) -> Image:
    """Warmer or cooler light along the black-body locus, as lamps, sun and shade give it, and a little off it.

    Gains of encoded values, their logarithms as 1 : 0 : −1.6 from 6500 K; a warmth of 0.08 is 5000 K, 0.17 is 4000 K.
    """
    warmth, green = rng.normal(0.02, 0.06), rng.normal(0, 0.025)
    gains = np.exp(np.array([warmth, green, -1.6 * warmth]))
    return np.asarray(np.clip(image * (gains / gains.max()), 0, 1), np.float32)


def framed(image: Image, inside: Image, colour: tuple[float, float, float]) -> Image:
    """The picture where `inside` (H×W) is 1, and a plain frame where it is 0."""
    return np.asarray(np.where(inside[..., None] > 0.5, image, np.array(colour, np.float32)), np.float32)


def draw_frame(side: int, rng: np.random.Generator) -> tuple[Image, tuple[float, float, float]]:
    """Where a turned and shifted photograph reaches (side×side, 1 or 0), and the colour of what lies round it."""
    matrix = cv2.getRotationMatrix2D((side / 2, side / 2), float(rng.normal(0, 6)), float(rng.uniform(0.9, 1.05)))
    matrix[:, 2] += rng.normal(0, 0.06 * side, 2)
    inside = cv2.warpAffine(np.ones((side, side), np.float32), matrix, (side, side), flags=cv2.INTER_NEAREST)
    return np.asarray(inside, np.float32), FRAMES[int(rng.choice(len(FRAMES), p=[0.5, 0.4, 0.1]))]
