"""Every container that is known by its first bytes. A new one is a file beside this one, and a name in FORMATS."""

from __future__ import annotations

from tasks.pictures.formats.avif import Avif
from tasks.pictures.formats.format import Format, Kind
from tasks.pictures.formats.heif import Heif
from tasks.pictures.formats.jpeg import Jpeg
from tasks.pictures.formats.jpeg2000 import Jpeg2000
from tasks.pictures.formats.plain import Bmp, Gif
from tasks.pictures.formats.png import Png
from tasks.pictures.formats.tiff import Tiff
from tasks.pictures.formats.webp import Webp

FORMATS: tuple[Format, ...] = (Jpeg(), Png(), Webp(), Tiff(), Bmp(), Gif(), Jpeg2000(), Avif(), Heif())
"""What can be read and written."""

UNDECODED = (
    Kind("Canon RAW", rb"II....HEAPCCDR", brands=(b"crx ",)),
    Kind("Olympus RAW", rb"IIR[OS]|MMOR"),
    Kind("Panasonic RAW", rb"IIU\0"),
    Kind("Fujifilm RAW", rb"FUJIFILMCCD-RAW"),
    Kind("Minolta RAW", rb"\0MRM"),
    Kind("Sigma RAW", rb"FOVb"),
    Kind("JPEG XL", rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n"),
    Kind("JPEG XR", rb"II\xbc[\0\1]"),
    Kind("JPEG-LS", rb"\xff\xd8\xff\xf7"),
    Kind("PSD", rb"8BPS"),
    Kind("GIMP XCF", rb"gimp xcf "),
    Kind("FITS", rb"SIMPLE  ="),
    Kind("OpenEXR", rb"\x76\x2f\x31\x01"),
    Kind("Radiance HDR", rb"#\?(RADIANCE|RGBE)"),
    Kind("ICO", rb"\0\0[\1\2]\0[^\0]\0"),
    Kind("PCX", rb"\n[\0-\5]\x01[\1\2\4\x08]"),
    Kind("Sun raster", rb"\x59\xa6\x6a\x95"),
    Kind("SGI", rb"\x01\xda[\0\1][\1\2]"),
    Kind("DDS", rb"DDS \x7c\0\0\0"),
    Kind("PNM", rb"P[1-6][ \t\r\n]+[0-9#]|P7\n|P[Ff]\s+[0-9]"),
    Kind("DjVu", rb"AT&TFORM"),
    Kind("QOI", rb"qoif"),
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
