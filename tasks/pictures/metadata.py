"""What travels beside the pixels, made true for the upright and restored picture. It knows no container."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from tasks.pictures.blocks.exif import orientation_of, upright_exif
from tasks.pictures.blocks.xmp import is_readable, orientation_in, with_provenance
from tasks.pictures.picture import Metadata, Picture
from tasks.pictures.turning import Turning

DENSITIES = {"pHYs": (0, 4, 8), "APP0": (8, 10, 12)}
"""Where the densities of PNG and JFIF begin and end."""


CREDENTIALS_LEFT = "signed Content Credentials left out: they do not hold for changed pixels"
"""The note on a manifest (C2PA) of the original."""


def has_credentials(data: bytes) -> bool:
    """Whether a file of any container holds a signed manifest: a JUMBF box that says so."""
    return b"jumdc2pa" in data


def stored_orientation(exif: bytes | None, xmp: bytes | None) -> int:
    """How stored pixels lie, 1 to 8: as EXIF says, or XMP where EXIF says nothing."""
    return orientation_of(exif) or orientation_in(xmp) or 1


def described(found: Metadata, picture: Picture, provenance: Mapping[str, str], *, turned: bool = True) -> Metadata:
    """The original's metadata, true for the picture.

    turned: whether decoding turned the pixels as the metadata say; else something else lies at the root of it.
    """
    orientation = stored_orientation(found.exif, found.xmp) if turned else 1
    turning = Turning(orientation, picture.width, picture.height)
    carried = tuple(
        (kind, _turned_density(kind, piece) if turning.transposes else piece) for kind, piece in found.carried
    )
    return dataclasses.replace(
        found,
        carried=carried,
        icc=None if picture.mode == "CMYK" else found.icc,
        exif=upright_exif(found.exif, turning) if found.exif else None,
        xmp=with_provenance(found.xmp, provenance, turning),
    )


def _turned_density(kind: str, piece: bytes) -> bytes:
    """A piece that holds dots per length across and down, with the two exchanged; any other as it is."""
    if kind not in DENSITIES or (kind == "APP0" and not piece.startswith(b"JFIF")):
        return piece
    across, down, end = DENSITIES[kind]
    return piece[:across] + piece[down:end] + piece[across:down] + piece[end:]


def unread(found: Metadata) -> tuple[str, ...]:
    """Notes on blocks that nobody can read, and that are therefore not written again."""
    broken = found.xmp is not None and not is_readable(found.xmp)
    return ("the XMP packet is broken and was replaced by a new one",) if broken else ()
