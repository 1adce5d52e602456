"""AVIF with EXIF, XMP and profile, 8 bits; written with quality 95."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping

from PIL import Image

from tasks.pictures.formats.format import Kind
from tasks.pictures.formats.pillow import PillowFormat, metadata_of, saved, written_blocks
from tasks.pictures.metadata import described
from tasks.pictures.picture import Picture, coded_levels

PIXEL_INFORMATION = re.compile(rb"pixi\0{4}[\1\3\4]([\x01-\x10])", re.DOTALL)
"""The box that says how many bits a channel has."""


class Avif(PillowFormat):
    """AVIF; Pillow gives its turning (irot, imir) as EXIF orientation, and takes it so."""

    kind = Kind("AVIF", brands=(b"avif", b"avis"), suffixes=("avif",))
    animated = True

    def left_out(self, data: bytes, image: Image.Image) -> tuple[str, ...]:
        found = PIXEL_INFORMATION.search(data)
        bits = found[1][0] if found else 8
        return super().left_out(data, image) + ((f"{bits} bits reduced to 8",) if bits > 8 else ())

    def encode(self, picture: Picture, original: bytes, provenance: Mapping[str, str]) -> bytes:
        found = metadata_of(self.opened(io.BytesIO(original)))
        blocks = written_blocks(described(found, picture, provenance))
        return saved(coded_levels(picture), "AVIF", quality=95, subsampling="4:4:4", **blocks)
