"""The tone of a black-and-white picture (grey, sepia, cyanotype), and how to change its brightness without it.

A toned picture's colours lie on one curve over brightness. It knows pixels only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.pictures import LUMA, Pixels

BINS = 16
SAMPLES = 20_000
GREY = 3 / 255
"""99 % of a grey picture's pixels differ less than this between channels; JPEG makes 2/255 of nothing."""
SPREAD = 0.1
"""Largest spread of colours around the curve, in spreads of brightness. Measured: toned scans reach 0.05,
colour photographs, faded ones included, begin at 0.12."""


@dataclass(frozen=True, slots=True)
class Tone:
    """What a picture's colours add to its brightness: `offsets` (K, 3) at brightness `at` (K,)."""

    at: NDArray[np.float32]
    offsets: NDArray[np.float32]

    def colours(self, brightness: Pixels) -> Pixels:
        """(…, 3) RGB of this tone for brightness (…)."""
        if len(self.at) == 1:
            return np.asarray(brightness[..., None] + self.offsets[0], np.float32)
        added = [np.interp(brightness, self.at, self.offsets[:, channel]) for channel in range(3)]
        return brightness[..., None] + np.stack(added, axis=-1).astype(np.float32)

    def follow(self, before: Pixels, after: Pixels) -> Pixels:
        """`before` with the brightness of `after`, (H, W, 3) each; where brightness is equal it stays bit-equal."""
        return before + (self.colours(after @ LUMA) - self.colours(before @ LUMA))


def tone_of(pixels: Pixels, where: NDArray[np.bool_] | None = None) -> Tone | None:
    """The tone of a black-and-white picture (H, W, 3), or of the part `where` (H, W); None where it has colours."""
    chosen = pixels[where] if where is not None else pixels.reshape(-1, 3)
    sample = chosen[:: max(1, len(chosen) // SAMPLES)]
    if np.percentile(np.ptp(sample, axis=1), 99) <= GREY:
        return Tone(np.zeros(1, np.float32), np.zeros((1, 3), np.float32))
    brightness = sample @ LUMA
    bins = np.minimum((brightness * BINS).astype(np.intp), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    offsets = sample - brightness[:, None]
    sums = np.stack([np.bincount(bins, offsets[:, channel], BINS) for channel in range(3)], axis=1)
    means = sums / np.maximum(counts, 1)[:, None]
    if (offsets - means[bins]).std() >= SPREAD * brightness.std():
        return None
    filled = counts > 0
    centres = (np.arange(BINS) + 0.5) / BINS
    return Tone(centres[filled].astype(np.float32), means[filled].astype(np.float32))
