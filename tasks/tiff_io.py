"""TIFF: 8- and 16-bit pixels in any photometric form that archives hold, and the tags that travel with them.

Pillow decodes 8-bit files of every compression; tifffile decodes 16-bit ones, and OpenCV those whose
compression tifffile leaves to an optional package. Writing is tifffile's: uncompressed files stay so, all
others become deflate, which loses nothing.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from tasks import metadata
from tasks.picture import DecodeError, Header, Levels, Picture, coded_levels, to_float

TEXT_TAGS = (269, 270, 271, 272, 285, 305, 306, 315, 316, 33432)
BLOCK_TAGS = (33723, 34377)
XMP_TAG, ICC_TAG, EXIF_TAG, GPS_TAG = 700, 34675, 34665, 34853
FLIPS = {1: "", 2: "x", 3: "xy", 4: "y", 5: "t", 6: "tx", 7: "txy", 8: "ty"}
"""Orientation → what makes it upright: t transposes, then x and y mirror."""


def upright(levels: Levels, orientation: int) -> Levels:
    """Applies an EXIF orientation (1 to 8) to (H, W) or (H, W, C) levels."""
    for step in FLIPS[orientation]:
        levels = {"t": levels.swapaxes(0, 1), "x": levels[:, ::-1], "y": levels[::-1]}[step]
    return np.ascontiguousarray(levels)


def read_tiff_header(stream: Any) -> tuple[Header, int]:
    """Header of the first page and the number of pages that are not reduced copies of another."""
    with tifffile.TiffFile(stream) as file:
        page = file.pages.first
        pages = sum(1 for each in file.pages if not each.is_reduced)
        bits = _bits(page)
        if page.dtype not in (np.bool_, np.uint8, np.uint16) or bits not in (1, 2, 4, 8, 16):
            kind = f"{bits} bits per channel as {page.dtype}"
            sentence = f"expected a TIFF of whole numbers with 1 to 8 or 16 bits, came {kind}; convert it first"
            raise DecodeError("unsupported_format", sentence)
        mode = f"{page.photometric.name};{bits}" if bits != 8 else page.photometric.name
        return Header("TIFF", page.imagewidth, page.imagelength, mode), max(pages, 1)


def is_deep(header: Header) -> bool:
    """Whether a TIFF holds 16 bits per channel."""
    return header.mode.endswith(";16")


def _bits(page: Any) -> int:
    bits = page.bitspersample
    return max(bits) if isinstance(bits, tuple) else int(bits)


def decode_deep_tiff(data: bytes, header: Header) -> Picture:
    """A 16-bit grey or RGB TIFF, with or without alpha. Raises DecodeError for other kinds."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        kind = page.photometric.name
        if kind not in ("RGB", "MINISBLACK", "MINISWHITE") or page.dtype != np.uint16:
            raise DecodeError(
                "unsupported_format",
                f"expected a 16-bit TIFF in grey or RGB whole numbers, this one holds {kind} as {page.dtype}; "
                "convert it to RGB first",
                header,
            )
        stored = _deep_levels(page, data)
        orientation = page.tags.valueof(274, 1)
    levels = upright(stored, orientation if orientation in FLIPS else 1)
    colours = 3 if kind == "RGB" else 1
    pixels = to_float(levels[..., :colours])
    if kind == "MINISWHITE":
        pixels = 1 - pixels
    alpha = levels[..., colours] if levels.shape[2] > colours else None
    return Picture(
        pixels=np.repeat(pixels, 3, axis=2) if colours == 1 else pixels,
        alpha=alpha,
        grey=colours == 1,
        format="TIFF",
        depth=16,
        mode=header.mode,
    )


def _deep_levels(page: Any, data: bytes) -> NDArray[np.uint16]:
    """(H, W, samples) as stored."""
    try:
        levels = page.asarray()
    except (ValueError, KeyError) as error:
        if "imagecodecs" not in str(error):
            raise
        levels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if levels is None or levels.dtype != np.uint16:
            raise ValueError(f"neither tifffile nor OpenCV decodes {page.compression.name}") from error
        if levels.ndim == 3:
            levels = levels[..., [2, 1, 0, *range(3, levels.shape[2])]]
    if levels.ndim == 3 and page.planarconfig == tifffile.PLANARCONFIG.SEPARATE:
        levels = np.moveaxis(levels, 0, 2)
    return np.asarray(levels.reshape(*levels.shape[:2], -1), np.uint16)


def encode_tiff(picture: Picture, original: bytes, provenance: Mapping[str, str]) -> bytes:
    """Writes the picture as a TIFF with the tags of the original (which may be of any depth)."""
    levels = coded_levels(picture)
    with tifffile.TiffFile(io.BytesIO(original)) as file:
        tags = file.pages.first.tags
        options = _options(tags, picture)
        xmp = metadata.with_provenance(tags[XMP_TAG].value if XMP_TAG in tags else None, provenance)
        extra = [*_carried(tags), (XMP_TAG, 1, len(xmp), xmp, True)]
    directories = _sub_directories(original)
    extra += [(tag, 4, 1, 0, True) for tag in directories]
    sink = io.BytesIO()
    tifffile.imwrite(sink, levels, metadata=None, software=False, extratags=extra, **options)
    return _with_directories(sink.getvalue(), directories)


def _options(tags: Any, picture: Picture) -> dict[str, Any]:
    packed = tags.valueof(259, 1) != 1
    options: dict[str, Any] = {
        "photometric": "minisblack" if picture.grey else "rgb",
        "compression": "zlib" if packed else None,
        "predictor": packed,
        "planarconfig": "contig" if picture.alpha is not None or not picture.grey else None,
    }
    if picture.alpha is not None:
        kinds = tags.valueof(338, (2,))
        premultiplied = picture.depth == 16 and kinds[0] == 1
        options["extrasamples"] = ["assocalpha" if premultiplied else "unassalpha"]
    if 282 in tags and 283 in tags:
        options["resolution"] = (tags[282].value, tags[283].value)
        options["resolutionunit"] = tags.valueof(296, 2)
    if ICC_TAG in tags and not picture.notes:
        options["iccprofile"] = tags[ICC_TAG].value
    return options


def _carried(tags: Any) -> list[tuple[int, int, int, Any, bool]]:
    text = [(tag, 2, 0, tags[tag].value, True) for tag in TEXT_TAGS if tag in tags and isinstance(tags[tag].value, str)]
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
    """Appends the directories to a classic little-endian TIFF and points its first page to them."""
    result = bytearray(data)
    for tag, values in directories.items():
        directory = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
        for key, value in values.items():
            if key not in (37500, 40965):
                directory[key] = value
        result += b"\0" * (len(result) % 2)
        place = len(result)
        result += directory.tobytes(place)
        struct.pack_into("<I", result, _value_place(data, tag), place)
    return bytes(result)


def _value_place(data: bytes, tag: int) -> int:
    start = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, start)[0]
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        if struct.unpack_from("<H", data, entry)[0] == tag:
            return entry + 8
    raise ValueError(f"tag {tag} is not in the first page")
