"""JPEG: coded the way its original was, with the segments around the pixels, so that metadata travels byte for byte."""

from __future__ import annotations

import dataclasses
import io
import json
import struct
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, JpegImagePlugin

from tasks.pictures.formats.format import Kind
from tasks.pictures.formats.pillow import PillowFormat, frames_of, saved
from tasks.pictures.metadata import EXIF_PREFIX, described
from tasks.pictures.picture import Header, Levels, Metadata, Picture, coded_levels

JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\0"
JPEG_XMP_MORE = b"http://ns.adobe.com/xmp/extension/\0"
JPEG_ICC = b"ICC_PROFILE\0"
JPEG_PHOTOSHOP = b"Photoshop 3.0\0"
JPEG_ROOM = 65533
"""Bytes of payload that one JPEG segment can hold."""

Tables = dict[int, list[int]]
"""Quantisation steps of the components, luma's first."""


class Jpeg(PillowFormat):
    """JPEG in grey, YCbCr, RGB or CMYK; of several pictures in one file (MPO) the first."""

    kind = Kind("JPEG", ((0, b"\xff\xd8\xff"),), suffixes=("jpg", "jpeg", "jpe"))

    def opened(self, stream: BinaryIO) -> JpegImagePlugin.JpegImageFile:
        image = Image.open(stream, formats=["JPEG", "MPO"])
        assert isinstance(image, JpegImagePlugin.JpegImageFile)
        return image

    def header(self, stream: BinaryIO) -> tuple[Header, int]:
        return super().header(stream)[0], 1

    def left_out(self, image: Image.Image) -> tuple[str, ...]:
        count = frames_of(image)
        several = f"{count} pictures in one file (a gain map, depth, a second view); the first is kept"
        return (several,) if count > 1 else ()

    def encode(self, picture: Picture, original: bytes, provenance: Mapping[str, str]) -> bytes:
        """Codes with the original's subsampling and scan order, and with steps that divide the original's.

        A block that nobody touched holds multiples of the original's quantisation steps. Multiples of a step are
        multiples of its divisors, so it comes out nearly as it was, while a restored face is not quantised as
        coarsely as the original: no step is larger than that of quality 90. Subsampled chroma keeps its own steps,
        because it drifts when it is enlarged and reduced again, and coarse steps pull it back to where it was.
        """
        return put_jpeg_metadata(_coded_like(original, picture), _described(original, picture, provenance))


def _described(original: bytes, picture: Picture, provenance: Mapping[str, str]) -> Metadata:
    """The original's metadata with the provenance, in a comment where XMP has no room for it (a segment's 64 KiB)."""
    before = read_jpeg_metadata(original)
    found = described(before, picture, provenance)
    if len(found.xmp or b"") <= JPEG_ROOM - len(JPEG_XMP):
        return found
    comment = json.dumps(dict(provenance)).encode()
    return dataclasses.replace(found, xmp=before.xmp, carried=(*found.carried, ("COM", comment)))


def _coded_like(original: bytes, picture: Picture) -> bytes:
    """A bare JPEG of the picture."""
    levels = coded_levels(dataclasses.replace(picture, alpha=None))
    image = Jpeg().opened(io.BytesIO(original))
    progressive = "progressive" in image.info
    tables = {place: image.quantization[number] for place, number in enumerate(sorted(image.quantization)[:2])}
    finer = finer_tables(tables)
    if picture.grey:
        return _coded(levels, progressive, qtables={0: finer[0]})
    sampling = JpegImagePlugin.get_sampling(image)
    if sampling > 0 and 1 in tables:
        finer[1] = tables[1]
    keep_rgb = picture.mode == "RGB" and jpeg_adobe_transform(original) == 0
    return _coded(levels, progressive, qtables=finer, subsampling=max(sampling, 0), keep_rgb=keep_rgb)


def _coded(levels: Levels, progressive: bool, **options: Any) -> bytes:
    try:
        return saved(levels, "JPEG", progressive=progressive, optimize=True, **options)
    except OSError:  # libjpeg's buffer is too small for optimised coding of very noisy pictures
        return saved(levels, "JPEG", **options)


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
    example = saved(np.zeros((16, 16, 3), np.uint8), "JPEG", quality=90)
    tables = Jpeg().opened(io.BytesIO(example)).quantization
    return list(tables[0]), list(tables[1])


def jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(marker, payload) of every segment before the first scan; stops quietly where the file breaks off."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        if marker == 0xDA:
            return
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        yield marker, data[position + 4 : position + 2 + length]
        position += 2 + length


def read_jpeg_metadata(data: bytes) -> Metadata:
    """EXIF, XMP, ICC and IPTC as stored; JFIF density, long XMP and comments are carried verbatim."""
    exif = xmp = iptc = None
    icc: dict[int, bytes] = {}
    carried: list[tuple[str, bytes]] = []
    for marker, payload in jpeg_segments(data):
        if marker == 0xE1 and payload.startswith(EXIF_PREFIX):
            exif = exif or payload[len(EXIF_PREFIX) :]
        elif marker == 0xE1 and payload.startswith(JPEG_XMP):
            xmp = xmp or payload[len(JPEG_XMP) :]
        elif marker == 0xE2 and payload.startswith(JPEG_ICC):
            icc[payload[len(JPEG_ICC)]] = payload[len(JPEG_ICC) + 2 :]
        elif marker == 0xED and payload.startswith(JPEG_PHOTOSHOP):
            iptc = (iptc or b"") + payload[len(JPEG_PHOTOSHOP) :]
        elif marker == 0xE0 and payload.startswith(b"JFIF\0"):
            carried.append(("JFIF", payload[:12] + b"\0\0"))
        elif marker == 0xE1 and payload.startswith(JPEG_XMP_MORE):
            carried.append(("XMP", payload))
        elif marker == 0xFE:
            carried.append(("COM", payload))
    profile = b"".join(icc[number] for number in sorted(icc)) or None
    return Metadata(icc=profile, exif=exif, xmp=xmp, iptc=iptc, carried=tuple(carried))


def put_jpeg_metadata(bare: bytes, metadata: Metadata) -> bytes:
    """A freshly coded JPEG with the metadata's segments in front of its own; JFIF's stands first, as it must."""
    carried = metadata.carried
    marker, own_jfif = next(jpeg_segments(bare))
    segments, rest = [], bare[2:]
    if marker == 0xE0:
        rest = bare[2 + 4 + len(own_jfif) :]
        segments.append((0xE0, next((payload for kind, payload in carried if kind == "JFIF"), own_jfif)))
    if metadata.exif:
        segments.append((0xE1, EXIF_PREFIX + metadata.exif))
    if metadata.xmp:
        segments.append((0xE1, JPEG_XMP + metadata.xmp))
    segments += [(0xE1, payload) for kind, payload in carried if kind == "XMP"]
    segments += _chunked(0xE2, JPEG_ICC, metadata.icc or b"", numbered=True)
    segments += _chunked(0xED, JPEG_PHOTOSHOP, metadata.iptc or b"", numbered=False)
    segments += [(0xFE, payload) for kind, payload in carried if kind == "COM"]
    head = b"".join(struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body for marker, body in segments)
    return bare[:2] + head + rest


def _chunked(marker: int, prefix: bytes, payload: bytes, *, numbered: bool) -> list[tuple[int, bytes]]:
    room = JPEG_ROOM - len(prefix) - 2
    parts = [payload[start : start + room] for start in range(0, len(payload), room)]
    numbers = [bytes((number + 1, len(parts))) if numbered else b"" for number in range(len(parts))]
    return [(marker, prefix + number + part) for number, part in zip(numbers, parts, strict=True)]


def jpeg_adobe_transform(data: bytes) -> int | None:
    """The colour transform that an Adobe segment declares (0: none, channels are RGB or CMYK), if there is one."""
    for marker, payload in jpeg_segments(data):
        if marker == 0xEE and payload.startswith(b"Adobe") and len(payload) >= 12:
            return payload[11]
    return None
