"""The segments of a JPEG: what stands before the pixels, where the pixels end, and what of it a decoder needs.

Tolerant where libjpeg is: bytes that belong to no segment are passed over, a file may break off anywhere.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

SOI, EOI, SOS = 0xD8, 0xD9, 0xDA
STANDALONE = {0x01, *range(0xD0, 0xDA)}
"""Markers without a payload."""
ROOM = 65533
"""Bytes of payload that one segment can hold."""
END = bytes((0xFF, EOI))
_MARKER_IN_SCAN = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd7]")


class Segment(NamedTuple):
    """A marker and what stands behind its length."""

    marker: int
    payload: bytes


def read_segments(stream: BinaryIO) -> Iterator[Segment]:
    """Every segment before the first scan; leaves the stream at the scan's marker, or where the file breaks off."""
    stream.seek(2)
    while (marker := _next_marker(stream)) is not None:
        if marker in (SOS, EOI):
            stream.seek(-2, io.SEEK_CUR)
            return
        if marker in STANDALONE:
            continue
        length = int.from_bytes(stream.read(2), "big")
        payload = stream.read(max(length - 2, 0))
        if len(payload) != length - 2:
            return
        yield Segment(marker, payload)


def _next_marker(stream: BinaryIO) -> int | None:
    """The next marker, whatever lies before it; None at the file's end."""
    byte = stream.read(1)
    while byte:
        if byte == b"\xff":
            while byte == b"\xff":
                byte = stream.read(1)
            if byte and byte != b"\0":
                return byte[0]
        byte = stream.read(1)
    return None


def segment_bytes(segments: Iterable[Segment]) -> bytes:
    """Segments as they stand in a file."""
    return b"".join(struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body for marker, body in segments)


def split(payload: bytes, prefix: bytes, marker: int) -> list[Segment]:
    """A payload in as many segments as it takes, each with the prefix."""
    room = ROOM - len(prefix)
    return [Segment(marker, prefix + payload[at : at + room]) for at in range(0, len(payload), room)]


def bare(segments: Iterable[Segment], scans: bytes) -> bytes:
    """A JPEG of nothing but what pixels depend on: tables, frame, Adobe's colour transform, scans, end.

    A decoder that sees only these cannot stumble over a broken profile or comment, or over a missing end.
    """
    needed = [each for each in segments if not 0xE0 <= each.marker <= 0xFE or is_colour_transform(each)]
    return bytes((0xFF, SOI)) + segment_bytes(needed) + scans + (b"" if scans.endswith(END) else END)


def is_colour_transform(segment: Segment) -> bool:
    """Whether it says how channels became YCbCr or CMYK, or (JFIF) that they are YCbCr."""
    jfif = segment.marker == 0xE0 and segment.payload.startswith(b"JFIF\0") and len(segment.payload) >= 14
    return jfif or (segment.marker == 0xEE and segment.payload.startswith(b"Adobe") and len(segment.payload) >= 12)


def end_of_picture(data: bytes) -> int:
    """Where a JPEG ends, its end marker included; the file's end without one."""
    stream = io.BytesIO(data)
    for _ in read_segments(stream):
        pass
    at = stream.tell()
    while (found := _MARKER_IN_SCAN.search(data, at)) is not None:
        marker = data[found.start() + 1]
        at = found.end()
        if marker == EOI:
            return at
        at += int.from_bytes(data[at : at + 2], "big")
    return len(data)
