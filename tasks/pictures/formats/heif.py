"""HEIF, the container of HEIC, by the optional package pillow-heif (extra `heif`); written with quality 95."""

from __future__ import annotations

import io
from collections.abc import Mapping

from PIL import Image

from tasks.pictures.formats.format import Kind
from tasks.pictures.formats.pillow import PillowFormat, metadata_of, saved, written_blocks
from tasks.pictures.metadata import described
from tasks.pictures.picture import Picture, coded_levels


class Heif(PillowFormat):
    """HEIF with EXIF, XMP and profile."""

    kind = Kind(
        "HEIF",
        brands=(b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"),
        suffixes=("heic", "heif"),
    )

    def lacking(self) -> str:
        return "" if _registered() else "install pillow-heif (extra `heif`)"

    def orientation(self, image: Image.Image) -> int:
        """Upright: pillow-heif turns the pixels itself."""
        return 1

    def left_out(self, data: bytes, image: Image.Image) -> tuple[str, ...]:
        bits = int(image.info.get("bit_depth", 8))
        return super().left_out(data, image) + ((f"{bits} bits reduced to 8",) if bits > 8 else ())

    def encode(self, picture: Picture, original: bytes, provenance: Mapping[str, str]) -> bytes:
        found = metadata_of(self.opened(io.BytesIO(original)))
        blocks = written_blocks(described(found, picture, provenance, turned=False))
        return saved(coded_levels(picture), "HEIF", quality=95, **blocks)


def _registered() -> bool:
    """Teaches Pillow to read and write HEIF; False where pillow-heif is not installed."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener(thumbnails=False)
    return True
