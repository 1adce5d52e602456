"""The photometric steps of the released MPSR: unsharp masking and saturation on truncated 8-bit values.

Repository nathanlau1016/ntire2025_miportraitsr (`enhancer: [radius, percent, factor]`), which runs Pillow's
UnsharpMask and ImageEnhance.Color. Every conversion to 8 bits truncates, as there; rounding would brighten
each step by half a level.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor


def enhance(rgb: Tensor, radius: float = 0, percent: int = 50, saturation: float = 1.1) -> Tensor:
    """Sharpens, then saturates RGB (N, 3, H, W) in [0, 1] (clamped first); the result has 8-bit values over 255.

    `radius` in pixels (0, as released: no sharpening at all), `percent` of the difference to the blurred
    picture that is added, `saturation` 0 = grey, 1 = as it was, 1.1 as released.
    """
    levels = quantise(rgb)
    if radius > 0:
        levels = _unsharp(levels, radius, percent)
    return saturate(levels, saturation) / 255


def quantise(rgb: Tensor) -> Tensor:
    """RGB in [0, 1] to whole levels 0–255 in float32, truncating."""
    return (rgb.float() * 255).clamp(0, 255).trunc()


def saturate(levels: Tensor, factor: float) -> Tensor:
    """Moves whole levels 0–255 (N, 3, H, W) away from (or towards) their grey, bit-equal to Pillow's Color."""
    whole = levels.int()
    grey = (19595 * whole[:, :1] + 38470 * whole[:, 1:2] + 7471 * whole[:, 2:] + 32768) >> 16
    grey = grey.float()
    return (grey + factor * (levels - grey)).clamp(0, 255).trunc()


def _unsharp(levels: Tensor, radius: float, percent: int) -> Tensor:
    filtered = ImageFilter.UnsharpMask(radius=radius, percent=percent, threshold=0)
    pictures = levels.permute(0, 2, 3, 1).byte().cpu().numpy()
    sharpened = np.stack([np.asarray(Image.fromarray(picture).filter(filtered)) for picture in pictures])
    return torch.from_numpy(sharpened).permute(0, 3, 1, 2).to(levels)
