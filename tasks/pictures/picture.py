"""A decoded picture and what its file looked like: the records that decoding, stages and encoding share.

It knows no codec; `tasks.pictures.codec` reads and writes these records.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tasks.pictures.turning import FLIPS

Pixels = NDArray[np.float32]
Levels = NDArray[np.unsignedinteger[Any]]
Depth = Literal[8, 16]
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


class DecodeError(ValueError):
    """A file that cannot be an input, with the code from `tasks.archive.REASONS` and a sentence for people.

    `header` is what was found out before it failed (None when even the header could not be read).
    """

    def __init__(self, reason_code: str, sentence: str, header: Header | None = None) -> None:
        super().__init__(sentence)
        self.reason_code = reason_code
        self.header = header


@dataclass(frozen=True)
class Limits:
    """How large a picture may be, checked from the header before a pixel is decoded.

    max_pixels: width × height; a decoded pixel takes 12 bytes as float32 RGB (300 million: 3.6 GB).
    max_side: pixels of the longer side.
    """

    max_pixels: int = 300_000_000
    max_side: int = 65_535


@dataclass(frozen=True)
class Header:
    """What a file's header says: container, size as stored (before orientation), Pillow's name of the mode."""

    format: str
    width: int
    height: int
    mode: str


@dataclass(frozen=True)
class Metadata:
    """What travels beside the pixels, ready to be written again.

    exif: TIFF block without the `Exif` prefix. xmp: packet. iptc: Photoshop resource block (JPEG) or raw IPTC
    (TIFF). carried: other pieces of the same container, verbatim, as (kind, payload); kinds are the container's own.
    """

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    carried: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True)
class Picture:
    """Upright pixels, and as much of the file's coding as stages need; the rest stays in the original's bytes.

    pixels: (H, W, 3) float32 RGB in [0, 1], in the file's own colour space (CMYK comes as sRGB).
    alpha: (H, W) at the file's own depth, or None; a TIFF may have several channels beside its colours, (H, W, n), of
    any meaning. grey: the container is greyscale (the channels are equal).
    format: name of its container. depth: bits per channel of the file and of its result. mode: Pillow's name of what
    the file held.
    notes: sentences on what could not be kept (palette, CMYK, …), for the ledger.
    """

    pixels: Pixels
    alpha: Levels | None = None
    grey: bool = False
    format: str = "PNG"
    depth: Depth = 8
    mode: str = "RGB"
    notes: tuple[str, ...] = ()

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])


def coded_levels(picture: Picture) -> Levels:
    """What a codec gets: (H, W) or (H, W, 2) where the picture is grey, else (H, W, 3) or (H, W, 4)."""
    levels = to_levels(picture.pixels, picture.depth)
    if picture.grey:
        levels = to_levels(picture.pixels @ LUMA, picture.depth)
    if picture.alpha is None:
        return levels
    return np.dstack([levels, picture.alpha.astype(levels.dtype)])


def upright(levels: Levels, orientation: int) -> Levels:
    """Applies an EXIF orientation (1 to 8) to (H, W) or (H, W, C) levels."""
    for step in FLIPS[orientation]:
        levels = {"t": levels.swapaxes(0, 1), "x": levels[:, ::-1], "y": levels[::-1]}[step]
    return np.ascontiguousarray(levels)


def to_float(levels: Levels) -> Pixels:
    """Whole levels of 8 or 16 bits as float32 in [0, 1]; `to_levels` gives the same levels back."""
    return np.asarray(levels / np.float32(np.iinfo(levels.dtype).max), np.float32)


def to_levels(pixels: Pixels, depth: Depth) -> Levels:
    """Pixels rounded to whole levels of 8 or 16 bits; values outside [0, 1] are clipped."""
    top, kind = (255, np.uint8) if depth == 8 else (65535, np.uint16)
    levels: Levels = np.rint(np.clip(pixels, 0, 1) * np.float32(top)).astype(kind)
    return levels
