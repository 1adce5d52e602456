"""BMP and GIF, which hold no metadata but BMP's density."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping

from tasks.pictures.formats.format import Kind
from tasks.pictures.formats.pillow import PillowFormat, saved
from tasks.pictures.picture import Picture, coded_levels

V4_SIZE, BITFIELDS = 108, 3


class Bmp(PillowFormat):
    """BMP; grey and colours with 8 bits."""

    kind = Kind("BMP", rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0", suffixes=("bmp", "dib"))

    def encode(self, picture: Picture, original: bytes, provenance: Mapping[str, str]) -> bytes:
        density = self.opened(io.BytesIO(original)).info.get("dpi")
        coded = saved(coded_levels(picture), "BMP", **({"dpi": density} if density else {}))
        return coded if picture.alpha is None or picture.grey else _with_declared_alpha(coded)


def _with_declared_alpha(coded: bytes) -> bytes:
    """Pillow's BMP of 32 bits with the header (BITMAPV4) that says which of them are alpha."""
    header = bytearray(coded[14:54].ljust(V4_SIZE, b"\0"))
    struct.pack_into("<I", header, 0, V4_SIZE)
    struct.pack_into("<I", header, 16, BITFIELDS)
    struct.pack_into("<4I4s", header, 40, 0xFF0000, 0xFF00, 0xFF, 0xFF000000, b"BGRs")
    pixels = coded[54:]
    start = 14 + V4_SIZE
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + bytes(header) + pixels


class Gif(PillowFormat):
    """GIF, which has 256 colours: what is written gets a palette of its own."""

    kind = Kind("GIF", rb"GIF8[79]a", suffixes=("gif",))
    animated = True
    palette_becomes = "a new palette"

    def encode(self, picture: Picture, original: bytes, provenance: Mapping[str, str]) -> bytes:
        return saved(coded_levels(picture), "GIF")
