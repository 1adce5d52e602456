"""HEIF, the container of HEIC, by the optional package pillow-heif (extra `heif`); written with quality 95."""

from __future__ import annotations

import io
from collections.abc import Mapping

from PIL import Image

from tasks.pictures.formats.format import Kind
from tasks.pictures.formats.pillow import PillowFormat, described_blocks, saved
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

    def left_out(self, image: Image.Image) -> tuple[str, ...]:
        bits = int(image.info.get("bit_depth", 8))
        return (f"{bits} bits reduced to 8",) if bits > 8 else ()

    def encode(self, picture: Picture, original: bytes, provenance: Mapping[str, str]) -> bytes:
        blocks = described_blocks(self.opened(io.BytesIO(original)), picture, provenance)
        return saved(coded_levels(picture), "HEIF", quality=95, **blocks)


def _registered() -> bool:
    """Teaches Pillow to read and write HEIF; False where pillow-heif is not installed."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener(thumbnails=False)
    return True
