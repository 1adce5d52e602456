"""TIFF: 8- and 16-bit pixels in any photometric form that archives hold, and the tags that travel with them.

tifffile (with imagecodecs for packed data) decodes grey and RGB to what the file stores, whatever its compression, and
Pillow every other 8-bit file. Writing is tifffile's: uncompressed files stay so, all others become deflate, which loses
nothing. Tags travel byte for byte, with their types and in the file's own byte order.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
import tifffile
from PIL import Image

from tasks.pictures.blocks.directories import (
    Directory,
    Entry,
    Spelling,
    directory_below,
    pages,
    spelling_of,
    with_directory,
)
from tasks.pictures.blocks.exif import upright_exif
from tasks.pictures.blocks.xmp import with_provenance
from tasks.pictures.formats.format import Kind
from tasks.pictures.formats.pillow import PillowFormat
from tasks.pictures.metadata import stored_orientation, unread
from tasks.pictures.picture import DecodeError, Header, Levels, Metadata, Picture, coded_levels, to_float, upright
from tasks.pictures.turning import Turning

MODES = {"MINISBLACK": "L", "MINISWHITE": "L", "SEPARATED": "CMYK", "PALETTE": "P", "YCBCR": "YCbCr"}
"""tifffile's name of a photometric form → Pillow's name of the mode, where they differ."""
CHANNELS = {"RGB": 3, "MINISBLACK": 1, "MINISWHITE": 1, "SEPARATED": 4, "PALETTE": 1, "YCBCR": 3, "CIELAB": 3}
JPEG_COMPRESSIONS = ("JPEG", "OJPEG", "JPEG_LOSSY")
SUBFILE_TYPE, WIDTH, HEIGHT, ORIENTATION = 254, 256, 257, 274
SUB_IFDS, DNG_VERSION = 330, 50706
XMP_TAG, ICC_TAG, EXIF_TAG, GPS_TAG = 700, 34675, 34665, 34853
MAKER_NOTE, INTEROPERABILITY = 37500, 40965
LAYERS = 37724
"""Photoshop's layers, which show the old pixels."""
CODING = {
    *range(SUBFILE_TYPE, 267),
    *(273, 274, 277, 278, 279, 280, 281, 284, 288, 289, 290, 291, 292, 293, 297),
    317,
    *range(320, 349),
    *range(512, 533),
    *(34665, 34853, INTEROPERABILITY, LAYERS, XMP_TAG),
}
"""Tags that say how pixels are coded or where something lies; every other one travels."""


class Tiff(PillowFormat):
    """TIFF and BigTIFF in either byte order."""

    kind = Kind("TIFF", rb"II[*+]\0|MM\0[*+]", suffixes=("tif", "tiff"))

    def header(self, stream: BinaryIO) -> tuple[Header, int]:
        """Header of the first page and the number of pages that are not reduced copies of another."""
        with tifffile.TiffFile(stream) as file:
            page = file.pages.first
            _refuse_unreadable(page, stream)
            mode = MODES.get(page.photometric.name, page.photometric.name) + (";16" if _bits(page) == 16 else "")
            header = Header(self.kind.name, int(page.imagewidth), int(page.imagelength), mode)
        return header, max(len(_own_pages(stream)), 1)

    def decode(self, data: bytes, header: Header) -> Picture:
        return _decoded_plain(data, header) or super().decode(data, header)

    def orientation(self, image: Image.Image) -> int:
        """Upright: Pillow turns the pixels of a TIFF itself."""
        return 1

    def left_out(self, data: bytes, image: Image.Image) -> tuple[str, ...]:
        return _left_out(data)

    def encode(self, picture: Picture, original: bytes, provenance: Mapping[str, str]) -> bytes:
        """Writes the tags of the original, too (which may be of any depth)."""
        stream = io.BytesIO(original)
        page = next(pages(stream))
        turning = Turning(_orientation(page, spelling_of(stream)), picture.width, picture.height)
        xmp = with_provenance(page[XMP_TAG].value if XMP_TAG in page else None, provenance, turning)
        lost = {*CODING, ICC_TAG} if picture.mode.startswith("CMYK") else CODING
        carried = {tag: entry for tag, entry in page.items() if tag not in lost}
        below = {tag: found for tag in (EXIF_TAG, GPS_TAG) if (found := _without_offsets(stream, page, tag))}
        written = _written(picture, original)
        coding = {tag: entry for tag, entry in next(pages(io.BytesIO(written))).items() if tag in CODING}
        entries = carried | coding | {XMP_TAG: Entry(XMP_TAG, 1, xmp)}
        return upright_exif(with_directory(written, entries, below), turning)


def _refuse_unreadable(page: Any, stream: BinaryIO) -> None:
    if _is_camera_raw(page, stream):
        sentence = "expected a picture, came a camera's raw file with a preview in it; develop it to a TIFF first"
        raise DecodeError("unsupported_format", sentence)
    bits = _bits(page)
    samples = page.size // max(page.imagewidth * page.imagelength, 1)
    if page.dtype not in (np.bool_, np.uint8, np.uint16) or bits not in (1, 2, 4, 8, 16) or samples > 5:
        kind = f"{samples} channels of {bits} bits ({_number_kind(page)})"
        sentence = f"expected a TIFF with up to 5 channels of 1 to 8 or 16 bits, came {kind}; convert it first"
        raise DecodeError("unsupported_format", sentence)
    if page.dtype == np.uint16 and not _is_plain(page):
        kind = page.photometric.name
        sentence = f"expected a 16-bit TIFF in grey or RGB, this one holds {kind}; convert it to RGB first"
        raise DecodeError("unsupported_format", sentence)


def _number_kind(page: Any) -> str:
    kinds = {"f": "floating point", "i": "signed", "u": "whole numbers", "c": "complex numbers"}
    return kinds.get(getattr(page.dtype, "kind", ""), "of a kind nobody knows")


def _is_camera_raw(page: Any, stream: BinaryIO) -> bool:
    """Whether the first page is a preview of undeveloped data (DNG, NEF, ARW, CR2 …) or those data themselves."""
    stream.seek(8)
    preview = page.subfiletype & 1 and page.tags.get(SUB_IFDS) is not None
    raw = page.photometric.name in ("CFA", "LINEAR_RAW") or page.tags.get(DNG_VERSION) is not None
    return stream.read(2) == b"CR" or bool(preview) or raw


def _own_pages(stream: BinaryIO) -> list[Directory]:
    """The pages that are no smaller copy of the first one, whether they say so (NewSubfileType) or look so."""
    spelling = spelling_of(stream)
    every = list(pages(stream))
    return [page for page in every if page is every[0] or not _is_copy(page, every[0], spelling)]


def _is_copy(page: Directory, first: Directory, spelling: Spelling) -> bool:
    if SUBFILE_TYPE in page and spelling.number(page[SUBFILE_TYPE]) & 1:
        return True
    width, height = (spelling.number(page[tag]) / spelling.number(first[tag]) for tag in (WIDTH, HEIGHT))
    return max(width, height) <= 0.5 and abs(width - height) <= 0.05 * max(width, height)


def _bits(page: Any) -> int:
    bits = page.bitspersample
    return max(bits) if isinstance(bits, tuple) else int(bits)


def _orientation(page: Directory, spelling: Spelling) -> int:
    number = spelling.number(page[ORIENTATION]) if ORIENTATION in page else 0
    if 1 <= number <= 8:
        return number
    return stored_orientation(None, page[XMP_TAG].value if XMP_TAG in page else None)


def _decoded_plain(data: bytes, header: Header) -> Picture | None:
    """A grey or RGB TIFF with 8 or 16 bits, and what channels it has beside; None where Pillow has to do it."""
    stream = io.BytesIO(data)
    with tifffile.TiffFile(stream) as file:
        page = file.pages.first
        if not _is_plain(page):
            return None
        stored = _levels(page)
        inverted = page.photometric.name == "MINISWHITE"
    levels = upright(stored, _orientation(next(pages(stream)), spelling_of(stream)))
    colours = 1 if header.mode.startswith("L") else 3
    if levels.shape[2] < colours:
        raise ValueError(f"{header.mode} with {levels.shape[2]} channels")
    pixels = 1 - to_float(levels[..., :1]) if inverted else to_float(levels[..., :colours])
    beside = levels.shape[2] - colours
    return Picture(
        pixels=np.repeat(pixels, 3, axis=2) if colours == 1 else pixels,
        alpha=levels[..., colours] if beside == 1 else levels[..., colours:] if beside else None,
        grey=colours == 1,
        format=header.format,
        depth=16 if levels.dtype == np.uint16 else 8,
        mode=header.mode,
        notes=_left_out(data),
    )


def _is_plain(page: Any) -> bool:
    """Whether tifffile decodes a page to what it stores, premultiplied alpha included."""
    colours = page.photometric.name in ("RGB", "MINISBLACK", "MINISWHITE")
    whole = _bits(page) in (8, 16) and page.dtype in (np.uint8, np.uint16)
    return colours and whole and page.compression.name not in JPEG_COMPRESSIONS


def _levels(page: Any) -> Levels:
    """(H, W, samples) as stored."""
    levels = page.asarray()
    if levels.ndim == 3 and page.planarconfig == tifffile.PLANARCONFIG.SEPARATE:
        levels = np.moveaxis(levels, 0, 2)
    return np.asarray(levels.reshape(*levels.shape[:2], -1))


def _left_out(data: bytes) -> tuple[str, ...]:
    """Notes on what a TIFF holds beside its pixels, and a result will not hold."""
    stream = io.BytesIO(data)
    every = list(pages(stream))
    first = every[0]
    notes = unread(Metadata(xmp=first[XMP_TAG].value if XMP_TAG in first else None))
    if len(every) > 1:
        notes += (f"{len(every) - 1} reduced copies of the picture (thumbnails) left out",)
    if LAYERS in first:
        notes += ("Photoshop's layers left out; the picture is kept",)
    if MAKER_NOTE in directory_below(stream, first, EXIF_TAG):
        notes += ("the camera maker's own notes left out: they hold places in the old file",)
    return notes


def _without_offsets(stream: BinaryIO, page: Directory, tag: int) -> Directory:
    """A directory without the entries that hold places in the old file."""
    found = directory_below(stream, page, tag)
    return {tag: entry for tag, entry in found.items() if tag not in (MAKER_NOTE, INTEROPERABILITY)}


def _written(picture: Picture, original: bytes) -> bytes:
    """A TIFF of one page, coded like the original's first."""
    with tifffile.TiffFile(io.BytesIO(original)) as file:
        page = file.pages.first
        packed = page.compression.name != "NONE"
        levels, sink = coded_levels(picture), io.BytesIO()
        tifffile.imwrite(
            sink,
            levels,
            bigtiff=file.is_bigtiff or levels.nbytes > 4_000_000_000,
            byteorder=file.byteorder,
            photometric="minisblack" if picture.grey else "rgb",
            planarconfig="contig" if levels.ndim == 3 else None,
            extrasamples=_kinds_beside(picture, page),
            compression="zlib" if packed else None,
            predictor=packed,
            metadata=None,
            software=False,
        )
    return sink.getvalue()


def _kinds_beside(picture: Picture, page: Any) -> list[int] | None:
    """What the channels beside the colours mean: as the original says, if these are its own as they were stored."""
    if picture.alpha is None:
        return None
    count = 1 if picture.alpha.ndim == 2 else picture.alpha.shape[2]
    said = [int(kind) for kind in page.extrasamples] if _is_plain(page) else [int(tifffile.EXTRASAMPLE.UNASSALPHA)]
    return [*said, *[int(tifffile.EXTRASAMPLE.UNSPECIFIED)] * count][:count]
