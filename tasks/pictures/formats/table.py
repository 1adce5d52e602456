"""Every container that is known by its first bytes. A new one is a file beside this one, and a name in FORMATS."""

from __future__ import annotations

from tasks.pictures.formats.format import Format, Kind
from tasks.pictures.formats.heif import Heif
from tasks.pictures.formats.jpeg import Jpeg
from tasks.pictures.formats.plain import Bmp, Gif
from tasks.pictures.formats.png import Png
from tasks.pictures.formats.tiff import Tiff
from tasks.pictures.formats.webp import Webp

FORMATS: tuple[Format, ...] = (Jpeg(), Png(), Webp(), Tiff(), Bmp(), Gif(), Heif())
"""What can be read and written."""

UNDECODED = (
    Kind("AVIF", brands=(b"avif", b"avis"), suffixes=("avif",)),
    Kind("Canon RAW", brands=(b"crx ",)),
    Kind("JPEG 2000", ((0, b"\0\0\0\x0cjP  \r\n\x87\n"),)),
    Kind("JPEG XL", ((0, b"\xff\x0a"), (0, b"\0\0\0\x0cJXL \r\n\x87\n"))),
    Kind("PSD", ((0, b"8BPS"),)),
    Kind("FITS", ((0, b"SIMPLE  ="),)),
    Kind("OpenEXR", ((0, b"\x76\x2f\x31\x01"),)),
    Kind("ICO", ((0, b"\0\0\1\0"),)),
    Kind("Fujifilm RAW", ((0, b"FUJIFILMCCD-RAW"),)),
    Kind("PNM", ((0, b"P5\n"), (0, b"P6\n"))),
)
"""What is known to be a picture, and refused."""


def kinds() -> tuple[Kind, ...]:
    """Everything that is known, decoded or not."""
    return (*(each.kind for each in FORMATS), *UNDECODED)


SUFFIXES = frozenset(suffix for kind in kinds() for suffix in kind.suffixes)
"""What the name of a file ends with, without the dot, that claims to be a picture."""


def sniff(head: bytes) -> str | None:
    """A kind's name by content (HEAD bytes suffice), or None for what is no picture. Not all can be decoded."""
    return next((kind.name for kind in kinds() if kind.begins(head)), None)


def decoded() -> list[str]:
    """The names of what can be read and written."""
    return [each.kind.name for each in FORMATS]


def format_named(name: str) -> Format:
    """The container of that name. Raises KeyError for what cannot be decoded."""
    return {each.kind.name: each for each in FORMATS}[name]
