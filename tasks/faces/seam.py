"""The seam of a pasted face: how far its colour and its gradient moved away from what surrounds it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from tasks.faces.colour_map import lab
from tasks.faces.geometry import Image, Mask

INNER, OUTER = 0.5, 0.02
"""Weights of the mask within which a pixel belongs to the face, and below which to its surround."""
WIDTH = 0.15
"""Width of the surround, in sides of the crop."""


@dataclass(frozen=True, slots=True)
class Seam:
    """`colour`: ΔE00 between the face's mean colour and where it would lie had it moved with its surround.

    `gradient`: the mean gradient along the mask's soft edge after, over before; 1 where pasting left no trace.
    """

    colour: float
    gradient: float


def seam_of(before: Image, after: Image, mask: Mask) -> Seam:
    """The seam between two crops (512, 512, 3) of one place, pasted with this mask (512, 512)."""
    inner = mask >= INNER
    reach = 2 * round(WIDTH * len(mask)) + 1
    near = cv2.dilate((mask > OUTER).astype(np.uint8), np.ones((reach, reach), np.uint8)).astype(bool)
    outer = near & (mask <= OUTER)
    if not inner.any() or not outer.any():
        return Seam(0.0, 1.0)
    was, now = lab(before), lab(after)
    moved = was[inner].mean(axis=0) + now[outer].mean(axis=0) - was[outer].mean(axis=0)
    edge = (mask > OUTER) & (mask < INNER)
    steep = [float(_gradient(crop)[edge].mean()) + 1e-3 for crop in (before, after)] if edge.any() else [1.0, 1.0]
    return Seam(delta_e(now[inner].mean(axis=0), moved), steep[1] / steep[0])


def delta_e(one: Image, other: Image) -> float:
    """CIEDE2000 between two CIELAB colours (Sharma et al. 2005, scikit-image's)."""
    from skimage.color import deltaE_ciede2000

    return float(deltaE_ciede2000(one, other))


def _gradient(crop: Image) -> Image:
    grey = np.ascontiguousarray(crop.mean(axis=2))
    smooth = cv2.GaussianBlur(grey, (0, 0), 4)
    return np.asarray(np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)), np.float32)
