"""Whether a JPEG holds all the pixels that its header promises: what libjpeg only warns of, and Pillow passes over.

libjpeg paints what it cannot read and goes on. Its warnings, which simplejpeg hands on, tell that this happened; what
another file end changes tells where.
"""

from __future__ import annotations

import random
import re

import numpy as np
import simplejpeg

from tasks.pictures.blocks.segments import END
from tasks.pictures.picture import DecodeError, Header, Levels

MISSING = 0.1
"""Share of a picture's rows that may be missing from its file; with more it counts as corrupt."""
PIXELS_PER_BYTE = 512
"""Most pixels that a byte of Huffman codes can stand for: a block of 8 × 8 takes one bit at least."""
ARITHMETIC = (0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
"""Frames whose coding has no such bound."""
HOLE = re.compile(rb"\0{256}|\xff{256}")
"""What a disk gives for a sector that it lost."""


def refuse_empty_promise(header: Header, frame: int, size: int) -> None:
    """Raises DecodeError (`corrupt`) where a file of that many bytes cannot hold the pixels its header promises.

    frame: the marker of the frame, which tells the coding. Asked before a decoder takes memory for them.
    """
    promised = header.width * header.height
    if frame not in ARITHMETIC and promised * (1 - MISSING) > size * PIXELS_PER_BYTE:
        sentence = (
            f"expected {header.width} × {header.height} pixels, as the header says, but {size:,} bytes hold "
            f"{size * PIXELS_PER_BYTE:,} pixels at most; fetch it again from its source"
        )
        raise DecodeError("corrupt", sentence, header)


def seen_damage(data: bytes, header: Header) -> tuple[str, ...]:
    """A note where libjpeg had to guess pixels of a bare JPEG.

    Raises DecodeError (`corrupt`) where more than MISSING of the rows are not in the file.
    """
    colours = "CMYK" if header.mode == "CMYK" else "GRAY" if header.mode == "L" else "RGB"
    try:
        simplejpeg.decode_jpeg(data, colours, min_factor=8, strict=True)
    except ValueError as warning:
        missing = _missing_rows(data, colours)
        if missing > MISSING:
            sentence = f"expected a whole JPEG, {missing:.0%} of its rows are missing; fetch it again from its source"
            raise DecodeError("corrupt", sentence, header) from warning
        share = f"about {missing:.0%} of its rows are missing" if missing else "some of its pixels are wrong"
        return (f"the JPEG is damaged ({warning}): {share}",)
    return ()


def _missing_rows(data: bytes, colours: str) -> float:
    """Share of the rows from the first on that changes when other bytes follow what is sound of the file."""
    hole = HOLE.search(data)
    sound = data[: hole.start()] if hole else data.removesuffix(END)
    one, other = (_rows(sound + _filler(seed) + END, colours) for seed in (1, 2))
    differing = (one != other).any(axis=(1, 2)).nonzero()[0]
    return float(1 - differing[0] / len(one)) if len(differing) else 0.0


def _filler(seed: int) -> bytes:
    """Bytes that are no marker."""
    return random.Random(seed).randbytes(4096).replace(b"\xff", b"\xfe")


def _rows(data: bytes, colours: str) -> Levels:
    levels: Levels = np.asarray(simplejpeg.decode_jpeg(data, colours, min_factor=8, strict=False))
    return levels
