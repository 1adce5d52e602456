"""TIFF: 8- and 16-bit pixels in any photometric form that archives hold, and the tags that travel with them.

tifffile decodes grey and RGB, OpenCV does so for 16-bit files whose compression tifffile leaves to an optional
package, and Pillow decodes every other 8-bit file. Writing is tifffile's: uncompressed files stay so, all
others become deflate, which loses nothing.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

import cv2
import numpy as np
import tifffile
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from tasks.pictures.formats.format import Kind
from tasks.pictures.formats.pillow import PillowFormat
from tasks.pictures.metadata import with_provenance
from tasks.pictures.picture import FLIPS, DecodeError, Header, Levels, Picture, coded_levels, to_float, upright

Tag = tuple[int, int, int, Any, bool]
"""As tifffile takes it: code, type, count, value, whether it stands once in the file."""
TEXT_TAGS = (269, 270, 271, 272, 285, 305, 306, 315, 316, 33432)
BLOCK_TAGS = (33723, 34377)
XMP_TAG, ICC_TAG, EXIF_TAG, GPS_TAG = 700, 34675, 34665, 34853
MODES = {"MINISBLACK": "L", "MINISWHITE": "L", "SEPARATED": "CMYK", "PALETTE": "P", "YCBCR": "YCbCr"}
"""tifffile's name of a photometric form → Pillow's name of the mode, where they differ."""
UNPACKED = ("NONE", "ADOBE_DEFLATE", "DEFLATE")
"""Compressions that tifffile undoes without an optional package."""
CLASSIC = 4_000_000_000
"""Bytes of pixels above which a TIFF is not surely a classic one, with 32-bit offsets."""
SUB_IFDS, DNG_VERSION = 330, 50706
STAND_INS = {EXIF_TAG: 65000, GPS_TAG: 65001}
"""Private tags that keep a place for tags that tifffile does not write."""
UNCARRIED = (37500, 40965)
"""Maker notes and interoperability: they hold offsets, which would point nowhere."""


class Tiff(PillowFormat):
    """TIFF and BigTIFF in either byte order."""

    kind = Kind("TIFF", tuple((0, mark) for mark in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")), suffixes=("tif", "tiff"))

    def header(self, stream: BinaryIO) -> tuple[Header, int]:
        """Header of the first page and the number of pages that are not reduced copies of another."""
        with tifffile.TiffFile(stream) as file:
            page = file.pages.first
            _refuse_unreadable(page, stream)
            mode = MODES.get(page.photometric.name, page.photometric.name) + (";16" if _bits(page) == 16 else "")
            header = Header(self.kind.name, int(page.imagewidth), int(page.imagelength), mode)
        return header, max(_count_pages(stream), 1)

    def decode(self, data: bytes, header: Header) -> Picture:
        return _decoded_plain(data, header) or super().decode(data, header)

    def orientation(self, image: Image.Image) -> int:
        """Upright: Pillow turns the pixels of a TIFF itself."""
        return 1

    def encode(self, picture: Picture, original: bytes, provenance: Mapping[str, str]) -> bytes:
        """Writes the tags of the original, too (which may be of any depth)."""
        levels = coded_levels(picture)
        directories = _sub_directories(original) if levels.nbytes < CLASSIC else {}
        stand_ins = [(STAND_INS[tag], 4, 1, 0, True) for tag in directories]
        with tifffile.TiffFile(io.BytesIO(original)) as file:
            page = file.pages.first
            extra = [*_carried(page.tags), _described(page.tags, provenance), *stand_ins]
            written = _written(levels, picture, page, extra)
        return _with_directories(written, directories)


def _refuse_unreadable(page: Any, stream: BinaryIO) -> None:
    if _is_camera_raw(page, stream):
        sentence = "expected a picture, came a camera's raw file with a preview in it; develop it to a TIFF first"
        raise DecodeError("unsupported_format", sentence)
    bits = _bits(page)
    samples = page.size // max(page.imagewidth * page.imagelength, 1)
    if page.dtype not in (np.bool_, np.uint8, np.uint16) or bits not in (1, 2, 4, 8, 16) or samples > 5:
        kind = f"{samples} channels of {bits} bits as {page.dtype}"
        sentence = f"expected a TIFF with up to 5 channels of 1 to 8 or 16 bits, came {kind}; convert it first"
        raise DecodeError("unsupported_format", sentence)


def _is_camera_raw(page: Any, stream: BinaryIO) -> bool:
    """Whether the first page is a preview of undeveloped data (DNG, NEF, ARW, CR2 …) or those data themselves."""
    stream.seek(8)
    preview = page.subfiletype & 1 and page.tags.get(SUB_IFDS) is not None
    raw = page.photometric.name in ("CFA", "LINEAR_RAW") or page.tags.get(DNG_VERSION) is not None
    return stream.read(2) == b"CR" or bool(preview) or raw


def _count_pages(stream: BinaryIO) -> int:
    """Pages that are not reduced copies. Walks the directories itself, because a file may chain them in a circle."""
    stream.seek(0)
    start = stream.read(16)
    order = "<" if start[:2] == b"II" else ">"
    big = start[2:4] in (b"+\0", b"\0+")
    entry_size, count_format, link_format = (20, "Q", "Q") if big else (12, "H", "I")
    place = struct.unpack_from(order + link_format, start, 8 if big else 4)[0]
    seen: set[int] = set()
    pages = 0
    while place and place not in seen:
        seen.add(place)
        stream.seek(place)
        count = struct.unpack(order + count_format, stream.read(struct.calcsize(count_format)))[0]
        entries = stream.read(count * entry_size)
        link = stream.read(struct.calcsize(link_format))
        pages += not _is_reduced(entries, entry_size, order)
        place = struct.unpack(order + link_format, link)[0] if len(link) == struct.calcsize(link_format) else 0
    return pages


def _is_reduced(entries: bytes, entry_size: int, order: str) -> bool:
    """Whether a directory says of its image that it is a smaller copy of another (NewSubfileType, bit 0)."""
    for at in range(0, len(entries) - entry_size + 1, entry_size):
        if struct.unpack_from(order + "H", entries, at)[0] == 254:
            return bool(struct.unpack_from(order + "I", entries, at + (8 if entry_size == 12 else 12))[0] & 1)
    return False


def _bits(page: Any) -> int:
    bits = page.bitspersample
    return max(bits) if isinstance(bits, tuple) else int(bits)


def _decoded_plain(data: bytes, header: Header) -> Picture | None:
    """A grey or RGB TIFF with 8 or 16 bits, with or without alpha; None where Pillow has to do it.

    Raises DecodeError for 16-bit files of other kinds, which Pillow would reduce to 8 bits.
    """
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        if not _is_plain(page):
            if page.dtype != np.uint16:
                return None
            kind = page.photometric.name
            sentence = f"expected a 16-bit TIFF in grey or RGB, this one holds {kind}; convert it to RGB first"
            raise DecodeError("unsupported_format", sentence, header)
        stored = _levels(page, data)
        orientation = page.tags.valueof(274, 1)
        inverted = page.photometric.name == "MINISWHITE"
    levels = upright(stored, orientation if orientation in FLIPS else 1)
    colours = 1 if header.mode.startswith("L") else 3
    if levels.shape[2] < colours:
        raise ValueError(f"{header.mode} with {levels.shape[2]} channels")
    pixels = 1 - to_float(levels[..., :1]) if inverted else to_float(levels[..., :colours])
    return Picture(
        pixels=np.repeat(pixels, 3, axis=2) if colours == 1 else pixels,
        alpha=levels[..., colours] if levels.shape[2] > colours else None,
        grey=colours == 1,
        format=header.format,
        depth=16 if levels.dtype == np.uint16 else 8,
        mode=header.mode,
    )


def _is_plain(page: Any) -> bool:
    """Whether tifffile (or OpenCV, for deep files) decodes a page to what it stores, premultiplied alpha included."""
    colours = page.photometric.name in ("RGB", "MINISBLACK", "MINISWHITE")
    deep, shallow = page.dtype == np.uint16, page.dtype == np.uint8 and page.compression.name in UNPACKED
    return colours and (deep or shallow)


def _levels(page: Any, data: bytes) -> Levels:
    """(H, W, samples) as stored."""
    try:
        levels = page.asarray()
    except (ValueError, KeyError) as error:
        if "imagecodecs" not in str(error):
            raise
        levels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if levels is None or levels.dtype != page.dtype:
            raise ValueError(f"neither tifffile nor OpenCV decodes {page.compression.name}") from error
        if levels.ndim == 3:
            levels = levels[..., [2, 1, 0, *range(3, levels.shape[2])]]
    if levels.ndim == 3 and page.planarconfig == tifffile.PLANARCONFIG.SEPARATE:
        levels = np.moveaxis(levels, 0, 2)
    return np.asarray(levels.reshape(*levels.shape[:2], -1))


def _written(levels: Levels, picture: Picture, page: Any, extra: list[Tag]) -> bytes:
    """A TIFF of one page, coded like the original's first."""
    packed = page.tags.valueof(259, 1) != 1
    resolution, unit = _density(page.tags)
    sink = io.BytesIO()
    tifffile.imwrite(
        sink,
        levels,
        byteorder="<",
        photometric="minisblack" if picture.grey else "rgb",
        planarconfig="contig" if levels.ndim == 3 else None,
        extrasamples=None if picture.alpha is None else [_kind_of_alpha(page)],
        compression="zlib" if packed else None,
        predictor=packed,
        iccprofile=page.tags.valueof(ICC_TAG) if picture.mode != "CMYK" else None,
        resolution=resolution,
        resolutionunit=unit,
        metadata=None,
        software=False,
        extratags=extra,
    )
    return sink.getvalue()


def _kind_of_alpha(page: Any) -> str:
    premultiplied = _is_plain(page) and tuple(page.extrasamples)[:1] == (1,)
    return "assocalpha" if premultiplied else "unassalpha"


def _density(tags: Any) -> tuple[Any, int | None]:
    """Both resolutions, as fractions, and their unit; None where they make no sense."""
    resolution, unit = (tags.valueof(282), tags.valueof(283)), tags.valueof(296, 2)
    sound = all(isinstance(value, tuple) and len(value) == 2 and all(value) for value in resolution)
    return (resolution, unit) if sound and unit in (1, 2, 3) else (None, None)


def _described(tags: Any, provenance: Mapping[str, str]) -> Tag:
    packet = with_provenance(tags.valueof(XMP_TAG), provenance)
    return XMP_TAG, 1, len(packet), packet, True


def _carried(tags: Any) -> list[Tag]:
    text = [(tag, 2, 0, tags[tag].value.encode(), True) for tag in TEXT_TAGS if isinstance(tags.valueof(tag), str)]
    blocks = [(tag, bytes(tags[tag].value)) for tag in BLOCK_TAGS if isinstance(tags.valueof(tag), bytes)]
    return text + [(tag, 7, len(block), block, True) for tag, block in blocks]


def _sub_directories(original: bytes) -> dict[int, Any]:
    """The EXIF and GPS directories, where Pillow understands the file (no maker notes: their offsets would break)."""
    try:
        with Image.open(io.BytesIO(original), formats=["TIFF"]) as image:
            exif = image.getexif()
            found = {tag: exif.get_ifd(tag) for tag in (EXIF_TAG, GPS_TAG)}
    except UnidentifiedImageError:
        return {}
    return {tag: values for tag, values in found.items() if values}


def _with_directories(data: bytes, directories: dict[int, Any]) -> bytes:
    """Appends directories to a classic little-endian TIFF and points its first page to them.

    tifffile does not write the pointers, so their entries stand under stand-in tags until here.
    """
    if not directories:
        return data
    result = bytearray(data)
    start = struct.unpack_from("<I", data, 4)[0]
    end = start + 2 + 12 * struct.unpack_from("<H", data, start)[0]
    entries = {struct.unpack_from("<H", data, at)[0]: data[at : at + 12] for at in range(start + 2, end, 12)}
    for tag, values in directories.items():
        directory = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
        for key, value in values.items():
            if key not in UNCARRIED:
                directory[key] = value
        result += b"\0" * (len(result) % 2)
        del entries[STAND_INS[tag]]
        entries[tag] = struct.pack("<HHII", tag, 4, 1, len(result))
        result += directory.tobytes(len(result))
    result[start + 2 : end] = b"".join(entries[tag] for tag in sorted(entries))
    return bytes(result)
