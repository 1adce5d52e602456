"""Coding a picture the way its original was coded: one function per container (TIFF has its own module).

It trusts that the original's bytes were decoded before, and that the picture has the original's format.
"""

from __future__ import annotations

import dataclasses
import io
import json
import struct
import zlib
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, JpegImagePlugin

from tasks.pictures import metadata
from tasks.pictures.formats import png as segments
from tasks.pictures.picture import Levels, Metadata, Picture, coded_levels

Tables = dict[int, list[int]]


def encode_jpeg(picture: Picture, original: bytes, provenance: Mapping[str, str]) -> bytes:
    """Codes with the original's subsampling and scan order, and with steps that divide the original's.

    A block that nobody touched holds multiples of the original's quantisation steps. Multiples of a step are
    multiples of its divisors, so it comes out nearly as it was, while a restored face is not quantised as coarsely
    as the original: no step is larger than that of quality 90. Subsampled chroma keeps its own steps, because it
    drifts when it is enlarged and reduced again, and coarse steps pull it back to where it was.
    """
    levels = coded_levels(dataclasses.replace(picture, alpha=None))
    bare = _jpeg(Image.fromarray(levels), _jpeg_options(picture, original))
    return segments.put_jpeg_metadata(bare, _jpeg_described(original, picture, provenance))


def _jpeg_described(original: bytes, picture: Picture, provenance: Mapping[str, str]) -> Metadata:
    """The original's metadata with the provenance, in a comment where XMP has no room for it (a segment's 64 KiB)."""
    before = segments.read_jpeg_metadata(original)
    found = _described(before, picture, provenance)
    if len(found.xmp or b"") <= segments.JPEG_ROOM - len(segments.JPEG_XMP):
        return found
    comment = json.dumps(dict(provenance)).encode()
    return dataclasses.replace(found, xmp=before.xmp, carried=(*found.carried, ("COM", comment)))


def _jpeg_options(picture: Picture, original: bytes) -> dict[str, Any]:
    with Image.open(io.BytesIO(original), formats=["JPEG", "MPO"]) as image:
        assert isinstance(image, JpegImagePlugin.JpegImageFile)
        sampling = JpegImagePlugin.get_sampling(image)
        tables = {place: image.quantization[number] for place, number in enumerate(sorted(image.quantization)[:2])}
        options: dict[str, Any] = {"progressive": "progressive" in image.info, "optimize": True}
    finer = finer_tables(tables)
    if picture.grey:
        return options | {"qtables": {0: finer[0]}}
    options["keep_rgb"] = segments.jpeg_adobe_transform(original) == 0 and picture.mode == "RGB"
    options["subsampling"] = max(sampling, 0)
    return options | {"qtables": finer | {1: tables[1]} if sampling > 0 and 1 in tables else finer}


def _jpeg(image: Image.Image, options: dict[str, Any]) -> bytes:
    sink = io.BytesIO()
    try:
        image.save(sink, "JPEG", **options)
    except OSError:  # libjpeg's buffer is too small for optimised coding of very noisy pictures
        sink = io.BytesIO()
        image.save(sink, "JPEG", **options | {"optimize": False, "progressive": False})
    return sink.getvalue()


def finer_tables(tables: Mapping[int, list[int]]) -> Tables:
    """Each step replaced by its largest divisor within quality 90's step (table 0 is luma's)."""
    return {
        number: [_divisor(step, cap) for step, cap in zip(table, _caps()[number > 0], strict=True)]
        for number, table in tables.items()
    }


def _divisor(step: int, cap: int) -> int:
    step = max(step, 1)
    return next(step // parts for parts in range(1, step + 1) if step % parts == 0 and step // parts <= cap)


@cache
def _caps() -> tuple[list[int], list[int]]:
    sink = io.BytesIO()
    Image.new("RGB", (16, 16)).save(sink, "JPEG", quality=90)
    with Image.open(sink) as image:
        assert isinstance(image, JpegImagePlugin.JpegImageFile)
        tables = image.quantization
    return list(tables[0]), list(tables[1])


def encode_png(picture: Picture, original: bytes, provenance: Mapping[str, str]) -> bytes:
    """Codes 8 or 16 bits with the original's text, profile and density."""
    levels = coded_levels(picture)
    if picture.depth == 8:
        sink = io.BytesIO()
        Image.fromarray(levels).save(sink, "PNG")
        bare = sink.getvalue()
    else:
        bare = _deep_png(levels)
    return segments.put_png_metadata(bare, _described(segments.read_png_metadata(original), picture, provenance))


def _deep_png(levels: Levels) -> bytes:
    """A bare 16-bit PNG: every row as its difference to the row above (filter 2), which suits photographs."""
    height, width, channels = (*levels.shape, 1)[:3]
    rows = np.ascontiguousarray(levels.astype(">u2")).view(np.uint8).reshape(height, -1)
    filtered = np.full((height, rows.shape[1] + 1), 2, np.uint8)
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(filtered.tobytes(), 6)), (b"IEND", b"")]
    return segments.PNG_SIGNATURE + segments.png_bytes(chunks)


def encode_plain(picture: Picture, original: bytes) -> bytes:
    """BMP and GIF, which hold no metadata but BMP's density; GIF has 256 colours."""
    sink = io.BytesIO()
    with Image.open(io.BytesIO(original), formats=[picture.format]) as source:
        density = source.info.get("dpi")
    image = Image.fromarray(coded_levels(picture))
    image.save(sink, picture.format, **({"dpi": density} if density and picture.format == "BMP" else {}))
    return sink.getvalue()


def encode_pillow(picture: Picture, original: bytes, provenance: Mapping[str, str]) -> bytes:
    """WebP (lossless where the original is, else quality 95) and HEIF (quality 95)."""
    with Image.open(io.BytesIO(original), formats=[picture.format]) as image:
        exif, packet, icc = (image.info.get(name) for name in ("exif", "xmp", "icc_profile"))
    exif = exif.removeprefix(segments.JPEG_EXIF) if exif else None
    found = _described(Metadata(icc=icc, exif=exif, xmp=packet), picture, provenance)
    options: dict[str, Any] = {"quality": 95, "xmp": found.xmp}
    options |= {"exif": segments.JPEG_EXIF + found.exif} if found.exif else {}
    options |= {"icc_profile": found.icc} if found.icc else {}
    if picture.format == "WEBP":
        options |= {"lossless": segments.webp_is_lossless(original), "exact": True, "method": 4}
    sink = io.BytesIO()
    Image.fromarray(coded_levels(picture)).save(sink, picture.format, **options)
    return sink.getvalue()


def _described(found: Metadata, picture: Picture, provenance: Mapping[str, str]) -> Metadata:
    """The original's metadata, true for the upright and restored picture."""
    return dataclasses.replace(
        found,
        icc=None if picture.mode == "CMYK" else found.icc,
        exif=metadata.upright_exif(found.exif) if found.exif else None,
        xmp=metadata.with_provenance(found.xmp, provenance),
    )
