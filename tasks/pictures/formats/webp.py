"""WebP: lossless where the original is, else with quality 95."""

from __future__ import annotations

import io
from collections.abc import Mapping

from tasks.pictures.formats.format import Kind
from tasks.pictures.formats.pillow import PillowFormat, metadata_of, saved, written_blocks
from tasks.pictures.metadata import described
from tasks.pictures.picture import Picture, coded_levels


class Webp(PillowFormat):
    """WebP with EXIF, XMP and profile; it has no place for a density."""

    kind = Kind("WEBP", rb"RIFF.{4}WEBPVP8", suffixes=("webp",))
    animated = True

    def encode(self, picture: Picture, original: bytes, provenance: Mapping[str, str]) -> bytes:
        blocks = written_blocks(described(metadata_of(self.opened(io.BytesIO(original))), picture, provenance))
        lossless = webp_is_lossless(original)
        return saved(coded_levels(picture), "WEBP", quality=95, lossless=lossless, exact=True, method=4, **blocks)


def webp_is_lossless(data: bytes) -> bool:
    """Whether a WebP's picture is coded without loss (chunk VP8L)."""
    position = 12
    while position + 8 <= len(data):
        kind, length = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        if kind in (b"VP8L", b"VP8 "):
            return kind == b"VP8L"
        position += 8 + length + length % 2
    return False
