"""BMP and GIF, which hold no metadata but BMP's density."""

from __future__ import annotations

import io
from collections.abc import Mapping

from tasks.pictures.formats.format import Kind
from tasks.pictures.formats.pillow import PillowFormat, saved
from tasks.pictures.picture import Picture, coded_levels


class Bmp(PillowFormat):
    """BMP; grey and colours with 8 bits."""

    kind = Kind("BMP", rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0", suffixes=("bmp", "dib"))

    def encode(self, picture: Picture, original: bytes, provenance: Mapping[str, str]) -> bytes:
        density = self.opened(io.BytesIO(original)).info.get("dpi")
        return saved(coded_levels(picture), "BMP", **({"dpi": density} if density else {}))


class Gif(PillowFormat):
    """GIF, which has 256 colours: what is written gets a palette of its own."""

    kind = Kind("GIF", rb"GIF8[79]a", suffixes=("gif",))
    animated = True
    palette_becomes = "a new palette"

    def encode(self, picture: Picture, original: bytes, provenance: Mapping[str, str]) -> bytes:
        return saved(coded_levels(picture), "GIF")
