"""What travels beside the pixels, made true for the upright and restored picture. It knows no container."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from tasks.pictures.blocks.exif import orientation_of, upright_exif
from tasks.pictures.blocks.xmp import is_readable, orientation_in, with_provenance
from tasks.pictures.picture import Metadata, Picture
from tasks.pictures.turning import Turning


def stored_orientation(exif: bytes | None, xmp: bytes | None) -> int:
    """How stored pixels lie, 1 to 8: as EXIF says, or XMP where EXIF says nothing."""
    return orientation_of(exif) or orientation_in(xmp) or 1


def described(found: Metadata, picture: Picture, provenance: Mapping[str, str], *, turned: bool = True) -> Metadata:
    """The original's metadata, true for the picture.

    turned: whether decoding turned the pixels as the metadata say; else something else lies at the root of it.
    """
    orientation = stored_orientation(found.exif, found.xmp) if turned else 1
    turning = Turning(orientation, picture.width, picture.height)
    return dataclasses.replace(
        found,
        icc=None if picture.mode == "CMYK" else found.icc,
        exif=upright_exif(found.exif, turning) if found.exif else None,
        xmp=with_provenance(found.xmp, provenance, turning),
    )


def unread(found: Metadata) -> tuple[str, ...]:
    """Notes on blocks that nobody can read, and that are therefore not written again."""
    broken = found.xmp is not None and not is_readable(found.xmp)
    return ("the XMP packet is broken and was replaced by a new one",) if broken else ()
