"""A change of tones (haze, fading, a cast) as one map of colours, so that a picture gets it as a whole or not at all.

The map is affine in brightness and in each channel's distance from it, which holds fading and casts exactly and haze
of one density. It is fitted to what happened to faces, seen without their detail, and is undone on a face where the
picture does not need it. Knows pixels only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from tasks.faces.geometry import Image, Mask
from tasks.pictures import LUMA

SEEN_AT = 32
"""Side in px at which a face's tones are compared: fine enough for hair and skin, too coarse for detail."""
RIDGE = 1e-5
"""How strongly a map is held to doing nothing where the faces do not tell, in shares of their weight."""
SAMPLES = 40_000
LEAST_CHANGE = 2.0
"""ΔE, on average over the picture, below which a change of tones is not worth every pixel."""
MORE_NATURAL = 4.0
"""By how much the picture has to become more natural (`unnatural`) for its faces' tones to be believed."""
MOST_CLIPPED = 0.02
"""Share of channel values that may be pushed out of range."""


@dataclass(frozen=True, slots=True)
class ColourMap:
    """Channel c becomes `brightness[c]` · luma + `distance[c]` · (value − luma) + `offset[c]`; three numbers each."""

    brightness: NDArray[np.float64]
    distance: NDArray[np.float64]
    offset: NDArray[np.float64]

    @classmethod
    def fitted(cls, pairs: Sequence[tuple[Image, Image]], masks: Sequence[Mask]) -> ColourMap:
        """The map that turns the faces' tones before into those after, (512, 512, 3) each, weighted by masks."""
        befores, afters, weights = (np.concatenate(each) for each in zip(*_seen(pairs, masks), strict=True))
        luma = befores @ LUMA
        found = [_ridge(luma, befores[:, c] - luma, afters[:, c], weights) for c in range(3)]
        return cls(*np.array(found, np.float64).T)

    def __call__(self, pixels: Image) -> Image:
        """Pixels (…, 3) with other tones."""
        return np.asarray(pixels @ self.matrix.T.astype(np.float32) + self.offset.astype(np.float32), np.float32)

    def undone(self, pixels: Image) -> Image:
        """Pixels (…, 3) with the tones that they had before the map."""
        back = np.linalg.inv(self.matrix)
        return np.asarray((pixels - self.offset.astype(np.float32)) @ back.T.astype(np.float32), np.float32)

    def size(self, pixels: Image) -> float:
        """How far the colours of pixels (N, M, 3) move, ΔE on average."""
        return float(np.linalg.norm(lab(self(pixels)) - lab(pixels), axis=-1).mean())

    def to_json(self) -> JsonValue:
        """For the ledger."""
        named = (("brightness", self.brightness), ("distance", self.distance), ("offset", self.offset))
        return {name: [round(float(value), 4) for value in values] for name, values in named}

    @property
    def matrix(self) -> NDArray[np.float64]:
        """The map's linear part (3, 3)."""
        return np.diag(self.distance) + np.outer(self.brightness - self.distance, LUMA.astype(np.float64))


def picture_map(pixels: Image, pairs: Sequence[tuple[Image, Image]], masks: Sequence[Mask]) -> ColourMap | None:
    """The change of tones that the whole picture (H, W, 3) shall get for what its faces got; None where it needs none.

    The picture has to bear the faces out: it becomes more natural (`unnatural`), and next to nothing is clipped.
    """
    if not pairs:
        return None
    step = max(1, int(np.sqrt(pixels.shape[0] * pixels.shape[1] / SAMPLES)))
    sample = cv2.blur(pixels, (step, step))[step // 2 :: step, step // 2 :: step].reshape(1, -1, 3)
    found = ColourMap.fitted(pairs, masks)
    after = found(sample)
    clipped = ((after < -0.01) | (after > 1.01)).mean() - ((sample < -0.01) | (sample > 1.01)).mean()
    believed = unnatural(after) <= unnatural(sample) - MORE_NATURAL
    return found if believed and found.size(sample) >= LEAST_CHANGE and clipped <= MOST_CLIPPED else None


def unnatural(pixels: Image) -> float:
    """How far a picture's tones are from what a lens sees in white light, ΔE: blacks, whites, highlights, the mean.

    Most scenes hold something black and something white, and are grey on average (Buchsbaum 1980).
    """
    seen = lab(pixels).reshape(-1, 3)
    black, light, white = np.percentile(seen[:, 0], (0.5, 95, 99.5))
    highlights = seen[seen[:, 0] >= light].mean(axis=0)
    return float(black + 0.5 * (100 - white) + np.hypot(*highlights[1:]) + np.hypot(*seen.mean(axis=0)[1:]))


def lab(pixels: Image) -> Image:
    """CIELAB of RGB (N, M, 3), clipped to [0, 1] first."""
    clipped = np.ascontiguousarray(pixels.clip(0, 1), np.float32)
    return np.asarray(cv2.cvtColor(clipped, cv2.COLOR_RGB2LAB), np.float32)


def _seen(pairs: Sequence[tuple[Image, Image]], masks: Sequence[Mask]) -> list[tuple[Image, Image, Image]]:
    size = (SEEN_AT, SEEN_AT)
    shrunk = [[cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in pair] for pair in pairs]
    weights = [cv2.resize(mask, size, interpolation=cv2.INTER_AREA).reshape(-1) for mask in masks]
    return [
        (b.reshape(-1, 3), a.reshape(-1, 3), w / max(float(w.sum()), 1e-6))
        for (b, a), w in zip(shrunk, weights, strict=True)
    ]


def _ridge(luma: Image, distance: Image, wanted: Image, weights: Image) -> NDArray[np.float64]:
    """Least squares for (1, 1, 0)-like coefficients: what the data do not tell stays at doing nothing."""
    columns = np.stack([luma, distance, np.ones_like(luma)], axis=1).astype(np.float64)
    nothing = np.array([1.0, 1.0, 0.0])
    weighted = columns * weights[:, None]
    held = RIDGE * float(weights.sum()) * np.eye(3)
    left = wanted - columns @ nothing
    return np.asarray(nothing + np.linalg.solve(columns.T @ weighted + held, weighted.T @ left))
