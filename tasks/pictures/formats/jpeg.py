"""JPEG: coded the way its original was, with the segments around the pixels, so that metadata travels byte for byte."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, JpegImagePlugin

from tasks.pictures.blocks.exif import PREFIX
from tasks.pictures.blocks.jpeg_damage import refuse_empty_promise, seen_damage
from tasks.pictures.blocks.segments import (
    END,
    ROOM,
    SOI,
    Segment,
    bare,
    end_of_picture,
    is_colour_transform,
    read_segments,
    segment_bytes,
    split,
)
from tasks.pictures.formats.format import Kind
from tasks.pictures.formats.pillow import PillowFormat, saved
from tasks.pictures.metadata import described, unread
from tasks.pictures.picture import DecodeError, Header, Levels, Metadata, Picture, coded_levels

JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\0"
JPEG_ICC = b"ICC_PROFILE\0"
JPEG_PHOTOSHOP = b"Photoshop 3.0\0"
NAMES = {0xFE: "COM"} | {0xE0 + number: f"APP{number}" for number in range(16)}
MARKERS = {name: marker for marker, name in NAMES.items()}
UNTRUE = {0xE0: b"JFXX\0", 0xE2: b"MPF\0", 0xEB: b"JP", 0xEE: b"Adobe"}
"""What speaks of the old pixels or their coding: JFIF's thumbnail, places of further pictures, signed manifests and
residuals (JUMBF, JPEG XT), the colour transform."""
EXIF_SEGMENT = re.compile(rb".{0,4}Exif\0[\0\xff]", re.DOTALL)
"""What stands before an EXIF block; some cameras write more or other bytes than the standard's."""
TIFF_MARKS = (b"II*\0", b"MM\0*")
FRAMES = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
"""Markers of the segment that tells bits, size and channels."""

Tables = dict[int, list[int]]
"""Quantisation steps of the components, luma's first."""


class Jpeg(PillowFormat):
    """JPEG in grey, YCbCr, RGB or CMYK; of several pictures in one file (MPO) the first."""

    kind = Kind("JPEG", rb"\xff\xd8\xff(?!\xf7)", suffixes=("jpg", "jpeg", "jpe"))

    def opened(self, stream: BinaryIO) -> JpegImagePlugin.JpegImageFile:
        """The file as Pillow sees it: the pixels alone, and what our own reading found beside them."""
        segments = list(read_segments(stream))
        image = _opened(bare(segments, stream.read()))
        found = _metadata(segments)
        blocks = {"icc_profile": found.icc, "exif": found.exif, "xmp": found.xmp}
        image.info |= {name: block for name, block in blocks.items() if block}
        return image

    def header(self, stream: BinaryIO) -> tuple[Header, int]:
        segments = list(read_segments(stream))
        frame = next((each for each in segments if each.marker in FRAMES), None)
        if frame is not None and frame.payload[:1] not in (b"", b"\x08"):
            sentence = f"expected a JPEG with 8 bits per channel, came {frame.payload[0]}; convert it first"
            raise DecodeError("unsupported_format", sentence)
        image = _opened(bare(segments, stream.read(64)))
        header = Header(self.kind.name, image.width, image.height, image.mode)
        if frame is not None:
            refuse_empty_promise(header, frame.marker, stream.seek(0, io.SEEK_END))
        return header, 1

    def left_out(self, data: bytes, image: Image.Image) -> tuple[str, ...]:
        stream = io.BytesIO(data)
        segments = list(read_segments(stream))
        notes = seen_damage(bare(segments, stream.read()), Header(self.kind.name, *image.size, image.mode))
        notes += unread(_metadata(segments))
        if not data[: end_of_picture(data)].endswith(END):
            notes += ("the JPEG's end mark is missing",)
        pictures, _ = _behind(data)
        if pictures:
            several = f"{1 + pictures} pictures in one file (a gain map, depth, a second view)"
            notes += (f"{several}; the first is kept, what the metadata says of the others removed",)
        if any(each.payload.startswith(JPEG_ICC) for each in segments) and not _icc(segments):
            notes += ("the colour profile is broken and left out",)
        if any(each.marker == 0xEB and b"jumb" in each.payload[:32] for each in segments):
            notes += ("signed Content Credentials left out: they do not hold for changed pixels",)
        return notes

    def encode(self, picture: Picture, original: bytes, provenance: Mapping[str, str]) -> bytes:
        """Codes with the original's subsampling and scan order, and with steps that divide the original's.

        A block that nobody touched holds multiples of the original's quantisation steps. Multiples of a step are
        multiples of its divisors, so it comes out nearly as it was, while a restored face is not quantised as
        coarsely as the original: no step is larger than that of quality 90. Subsampled chroma keeps its own steps,
        because it drifts when it is enlarged and reduced again, and coarse steps pull it back to where it was.
        """
        coded = put_jpeg_metadata(_coded_like(original, picture), _described(original, picture, provenance))
        return coded + _behind(original)[1]


def _described(original: bytes, picture: Picture, provenance: Mapping[str, str]) -> Metadata:
    """The original's metadata with the provenance, in a comment where XMP has no room for it (a segment's 64 KiB)."""
    before = read_jpeg_metadata(original)
    found = described(before, picture, provenance)
    if len(found.xmp or b"") <= ROOM - len(JPEG_XMP):
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
    keep_rgb = picture.mode == "RGB" and _adobe_transform(original) == 0
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


def read_jpeg_metadata(data: bytes) -> Metadata:
    """EXIF, XMP, ICC and IPTC as stored; every other segment that stays true is carried verbatim."""
    return _metadata(read_segments(io.BytesIO(data)))


def _metadata(segments: Iterable[Segment]) -> Metadata:
    exif = xmp = iptc = None
    icc: list[Segment] = []
    carried: list[tuple[str, bytes]] = []
    for segment in segments:
        marker, payload = segment
        block = EXIF_SEGMENT.match(payload) if marker == 0xE1 else None
        if block and (exif is None or not payload[block.end() :].startswith(TIFF_MARKS)):
            exif = (exif or b"") + payload[block.end() :]  # one that begins like no block goes on with the last
        elif marker == 0xE1 and payload.startswith(JPEG_XMP) and xmp is None:
            xmp = payload[len(JPEG_XMP) :]
        elif marker == 0xE2 and payload.startswith(JPEG_ICC):
            icc.append(segment)
        elif marker == 0xED and payload.startswith(JPEG_PHOTOSHOP):
            iptc = (iptc or b"") + payload[len(JPEG_PHOTOSHOP) :]
        elif marker == 0xE0 and payload.startswith(b"JFIF\0"):
            carried.append(("APP0", payload[:12] + b"\0\0"))
        elif marker in NAMES and not (marker in UNTRUE and payload.startswith(UNTRUE[marker])):
            carried.append((NAMES[marker], payload))
    return Metadata(icc=_icc(icc), exif=exif, xmp=xmp, iptc=iptc, carried=tuple(carried))


def _icc(segments: Iterable[Segment]) -> bytes | None:
    """The profile, put together by the numbers of its parts; None where one lacks, or a number."""
    parts = [each.payload[len(JPEG_ICC) :] for each in segments if each.payload.startswith(JPEG_ICC)]
    numbered = {part[0]: part for part in parts if len(part) > 2}
    whole = parts and sorted(numbered) == list(range(1, len(parts) + 1)) and all(len(parts) == p[1] for p in parts)
    return b"".join(numbered[number][2:] for number in sorted(numbered)) if whole else None


def put_jpeg_metadata(coded: bytes, metadata: Metadata) -> bytes:
    """A freshly coded JPEG with the metadata's segments in front of its own; JFIF's stands first, as it must."""
    stream = io.BytesIO(coded)
    own = list(read_segments(stream))
    carried = [Segment(MARKERS[kind], payload) for kind, payload in metadata.carried]
    icc = split(metadata.icc or b"", JPEG_ICC + b"\0\0", 0xE2)
    segments = [
        *[each for each in [*carried, *own] if each.marker == 0xE0 and each.payload.startswith(b"JFIF")][:1],
        *split(metadata.exif or b"", PREFIX, 0xE1),
        *split(metadata.xmp or b"", JPEG_XMP, 0xE1),
        *[_numbered(each, number + 1, len(icc)) for number, each in enumerate(icc)],
        *split(metadata.iptc or b"", JPEG_PHOTOSHOP, 0xED),
        *[each for each in carried if not each.payload.startswith(b"JFIF")],
        *[each for each in own if each.marker != 0xE0],
    ]
    return bytes((0xFF, SOI)) + segment_bytes(segments) + stream.read()


def _numbered(segment: Segment, number: int, count: int) -> Segment:
    rest = segment.payload[len(JPEG_ICC) + 2 :]
    return segment._replace(payload=JPEG_ICC + bytes((number, count)) + rest)


def _behind(data: bytes) -> tuple[int, bytes]:
    """What lies behind the picture: the number of further JPEGs, and the bytes behind those (a video, a trailer)."""
    rest, pictures = data[end_of_picture(data) :], 0
    while (further := rest.lstrip(b"\0")).startswith(b"\xff\xd8\xff"):
        rest, pictures = further[end_of_picture(further) :], pictures + 1
    return pictures, rest


def _adobe_transform(data: bytes) -> int | None:
    """The colour transform that an Adobe segment declares (0: none, channels are RGB or CMYK), if there is one."""
    segments = read_segments(io.BytesIO(data))
    return next((each.payload[11] for each in segments if each.marker == 0xEE and is_colour_transform(each)), None)


def _opened(data: bytes) -> JpegImagePlugin.JpegImageFile:
    image = Image.open(io.BytesIO(data), formats=["JPEG"])
    assert isinstance(image, JpegImagePlugin.JpegImageFile)
    return image
