"""JPEG 2000, as JP2 with its metadata or as a bare codestream: lossless where the original is."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

from PIL import Image

from tasks.pictures.formats.format import Kind
from tasks.pictures.formats.pillow import PillowFormat, metadata_of, saved
from tasks.pictures.metadata import described
from tasks.pictures.picture import Metadata, Picture, coded_levels

CODESTREAM = b"\xff\x4f\xff\x51"
XMP_ID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
EXIF_ID = b"JpgTiffExif->JP2"
CARRIED = (b"xml ", b"uuid", b"uinf")
"""Boxes that travel as they are, beside those of the header."""
QUALITY = 48
"""Decibels at which a lossy original is written again; the change is well below one level in the mean."""


class Box(NamedTuple):
    kind: bytes
    payload: bytes


class Jpeg2000(PillowFormat):
    """JPEG 2000 in grey or RGB, with or without alpha; 8 bits, grey up to 16."""

    kind = Kind(
        "JPEG2000", rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", suffixes=("jp2", "j2k", "j2c", "jpc", "jpx", "jpf")
    )

    def opened(self, stream: BinaryIO) -> Image.Image:
        image = super().opened(stream)
        found = _metadata(stream)
        blocks = {"icc_profile": found.icc, "exif": found.exif, "xmp": found.xmp}
        image.info |= {name: block for name, block in blocks.items() if block}
        return image

    def left_out(self, data: bytes, image: Image.Image) -> tuple[str, ...]:
        bits = _bits(data)
        reduced = bits > 8 and not image.mode.startswith("I;16")
        return super().left_out(data, image) + ((f"{bits} bits reduced to 8",) if reduced else ())

    def encode(self, picture: Picture, original: bytes, provenance: Mapping[str, str]) -> bytes:
        """A codestream alone has no place for metadata."""
        lossy: dict[str, Any] = {"irreversible": True, "quality_mode": "dB", "quality_layers": [QUALITY]}
        jp2 = not original.startswith(CODESTREAM)
        coded = saved(coded_levels(picture), "JPEG2000", no_jp2=not jp2, **({} if _is_lossless(original) else lossy))
        if not jp2:
            return coded
        found = described(metadata_of(self.opened(io.BytesIO(original))), picture, provenance)
        return _with_boxes(coded, original, found)


def boxes(data: bytes) -> Iterator[Box]:
    """The boxes that stand in a row; the last may reach to the end."""
    at = 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if length == 1:
            length, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        end = at + length if length else len(data)
        if end < at + head:
            return
        yield Box(kind, data[at + head : end])
        at = end


def _box(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I4s", len(payload) + 8, kind) + payload


def _header_boxes(data: bytes) -> list[Box]:
    return list(boxes(next((box.payload for box in boxes(data) if box.kind == b"jp2h"), b"")))


def _metadata(stream: BinaryIO) -> Metadata:
    stream.seek(0)
    data = stream.read()
    if data.startswith(CODESTREAM):
        return Metadata()
    colours = [box.payload for box in _header_boxes(data) if box.kind == b"colr"]
    uuids = {box.payload[:16]: box.payload[16:] for box in boxes(data) if box.kind == b"uuid"}
    icc = next((payload[3:] for payload in colours if payload[:1] == b"\2"), None)
    return Metadata(icc=icc, exif=uuids.get(EXIF_ID), xmp=uuids.get(XMP_ID))


def _with_boxes(coded: bytes, original: bytes, found: Metadata) -> bytes:
    """A freshly coded JP2 with the original's profile and resolution in its header, and its metadata at the end."""
    colours = [_box(*box) for box in _header_boxes(original) if box.kind == b"colr" and found.icc]
    density = [_box(*box) for box in _header_boxes(original) if box.kind == b"res "]
    own = [_box(*box) for box in _header_boxes(coded) if box.kind != b"colr" or not colours]
    header = _box(b"jp2h", b"".join([*own, *colours, *density]))
    blocks = [(XMP_ID, found.xmp), (EXIF_ID, found.exif)]
    ours = [_box(b"uuid", mark + block) for mark, block in blocks if block]
    kept = [box for box in boxes(original) if box.kind in CARRIED and box.payload[:16] not in (XMP_ID, EXIF_ID)]
    first = [header if box.kind == b"jp2h" else _box(*box) for box in boxes(coded)]
    return b"".join([*first[:-1], *(_box(*box) for box in kept), *ours, first[-1]])


def _bits(data: bytes) -> int:
    """Of the first channel, as the codestream's size marker says."""
    start = data.find(CODESTREAM)
    return (data[start + 42] & 0x7F) + 1 if 0 <= start < len(data) - 42 else 8


def _is_lossless(data: bytes) -> bool:
    """Whether the wavelet is the one that loses nothing (marker COD)."""
    start = data.find(b"\xff\x52", max(data.find(CODESTREAM), 0))
    return 0 <= start < len(data) - 13 and data[start + 13] == 1
