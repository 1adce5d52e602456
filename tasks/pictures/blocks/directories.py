"""The directories of a TIFF, classic or big, in either byte order: read and written entry by entry, values verbatim."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of one value, by type."""
LONG, LONG8 = 4, 16
NUMBERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}


class Entry(NamedTuple):
    """A tag with its type and the bytes of its values, in the file's byte order."""

    tag: int
    kind: int
    value: bytes


Directory = dict[int, Entry]
"""Entries by tag."""


@dataclass(frozen=True)
class Spelling:
    """How a TIFF spells its numbers: the byte order of `struct`, and whether offsets have 64 bits."""

    order: str
    big: bool

    @classmethod
    def of(cls, head: bytes) -> Spelling:
        """By a file's first four bytes."""
        return cls("<" if head[:2] == b"II" else ">", b"+" in head[2:4])

    @property
    def offset(self) -> str:
        return "Q" if self.big else "I"

    def unpack(self, kind: str, stream: BinaryIO) -> int:
        """The next number. Raises struct.error where the file ends."""
        return int(struct.unpack(self.order + kind, stream.read(struct.calcsize(kind)))[0])

    def pack(self, kind: str, *numbers: int) -> bytes:
        return struct.pack(self.order + kind, *numbers)

    def number(self, entry: Entry) -> int:
        """The first number of an entry. Raises ValueError where it holds none."""
        kind = NUMBERS.get(entry.kind)
        if kind is None or len(entry.value) < struct.calcsize(kind):
            raise ValueError(f"expected a number in TIFF tag {entry.tag}")
        return int(struct.unpack_from(self.order + kind, entry.value)[0])


def spelling_of(stream: BinaryIO) -> Spelling:
    """Of the TIFF in a stream."""
    stream.seek(0)
    return Spelling.of(stream.read(4))


def pages(stream: BinaryIO) -> Iterator[Directory]:
    """The directory of every page, in order; a chain that bites its tail ends there."""
    spelling = spelling_of(stream)
    stream.seek(8 if spelling.big else 4)
    place = spelling.unpack(spelling.offset, stream)
    seen: set[int] = set()
    while place and place not in seen:
        seen.add(place)
        directory, place = _read(stream, spelling, place)
        yield directory


def directory_below(stream: BinaryIO, above: Directory, tag: int) -> Directory:
    """The directory to which an entry points; empty where there is none, or none that can be read."""
    spelling = spelling_of(stream)
    try:
        return _read(stream, spelling, spelling.number(above[tag]))[0] if tag in above else {}
    except (ValueError, struct.error):
        return {}


def _read(stream: BinaryIO, spelling: Spelling, place: int) -> tuple[Directory, int]:
    """A directory, and where the next one lies (0 at the end)."""
    stream.seek(place)
    count = spelling.unpack("Q" if spelling.big else "H", stream)
    size = 20 if spelling.big else 12
    table = io.BytesIO(stream.read(count * size))
    try:
        following = spelling.unpack(spelling.offset, stream)
    except struct.error:
        following = 0
    found: Directory = {}
    while len(raw := table.read(size)) == size:
        tag, kind = struct.unpack_from(spelling.order + "HH", raw)
        values = struct.unpack_from(spelling.order + spelling.offset, raw, 4)[0]
        value = _value(stream, spelling, raw[4 + struct.calcsize(spelling.offset) :], values * SIZES.get(kind, 0))
        if value is not None and tag not in found:
            found[tag] = Entry(tag, kind, value)
    return found, following


def _value(stream: BinaryIO, spelling: Spelling, field: bytes, length: int) -> bytes | None:
    """The bytes of an entry's values; None where there are none, or the file does not hold them."""
    if 0 < length <= len(field):
        return field[:length]
    stream.seek(struct.unpack(spelling.order + spelling.offset, field)[0])
    value = stream.read(length)
    return value if length and len(value) == length else None


def with_directory(data: bytes, entries: Directory, below: Mapping[int, Directory]) -> bytes:
    """A TIFF of one page with these entries in place of its own.

    below: entry that points to it → further directory.
    """
    spelling = Spelling.of(data)
    result = bytearray(data)
    pointers: Directory = {}
    for tag, directory in below.items():
        offset = spelling.pack(spelling.offset, _append(result, spelling, directory))
        pointers[tag] = Entry(tag, LONG8 if spelling.big else LONG, offset)
    place = _append(result, spelling, entries | pointers)
    struct.pack_into(spelling.order + spelling.offset, result, 8 if spelling.big else 4, place)
    return bytes(result)


def _append(result: bytearray, spelling: Spelling, directory: Directory) -> int:
    """Appends the values of a directory, then the directory; returns where it lies. Offsets are even, as they must."""
    room = struct.calcsize(spelling.offset)
    table = spelling.pack("Q" if spelling.big else "H", len(directory))
    for tag in sorted(directory):
        _, kind, value = directory[tag]
        field = value.ljust(room, b"\0")
        if len(value) > room:
            result += b"\0" * (len(result) % 2)
            field = spelling.pack(spelling.offset, len(result))
            result += value
        table += spelling.pack("HH" + spelling.offset, tag, kind, len(value) // SIZES[kind]) + field
    result += b"\0" * (len(result) % 2)
    place = len(result)
    result += table + bytes(room)
    return place
