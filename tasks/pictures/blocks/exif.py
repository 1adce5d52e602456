"""An EXIF block: what has to change when pixels are turned upright and restored, and nothing else.

It is patched in place, so that every byte nobody speaks of here, maker notes with their offsets above all, stays.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tasks.pictures.turning import Turning

PREFIX = b"Exif\0\0"
"""What stands before an EXIF block in JPEG, and in what Pillow takes and gives."""
ORIENTATION = 0x0112
EXIF_DIRECTORY = 0x8769
WIDTHS, HEIGHTS = (0x0100, 0xA002), (0x0101, 0xA003)
PAIRS = ((0x011A, 0x011B), (0xA20E, 0xA20F))
"""Horizontal and vertical: resolution, and that of the focal plane."""
SUBJECTS = (0x9214, 0xA214)
"""Where the subject is: a point, a circle or a rectangle around a point, in pixels."""
SHORT, LONG = 3, 4


class Entry(NamedTuple):
    """An entry of a directory: its tag, type and number of values, and the byte at which these (or an offset) stand."""

    tag: int
    kind: int
    values: int
    at: int


@dataclass(frozen=True)
class _Block:
    """An EXIF block, and how its numbers are spelt."""

    data: bytearray
    order: str

    @classmethod
    def of(cls, data: bytes) -> _Block | None:
        """None where the bytes are no block."""
        order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
        return cls(bytearray(data), order) if order and len(data) >= 14 else None

    def number(self, kind: str, at: int) -> int:
        """0 where the block breaks off."""
        if at + struct.calcsize(kind) > len(self.data):
            return 0
        return int(struct.unpack_from(self.order + kind, self.data, at)[0])

    def entries(self, start: int) -> Iterator[Entry]:
        """Of the directory at a byte; those that lie in the block."""
        count = self.number("H", start)
        for at in range(start + 2, min(start + 2 + 12 * count, len(self.data) - 11), 12):
            yield Entry(self.number("H", at), self.number("H", at + 2), self.number("I", at + 4), at + 8)

    def first(self) -> list[Entry]:
        """The entries of the first directory."""
        return list(self.entries(self.number("I", 4)))

    def every(self) -> list[Entry]:
        """The entries of the first directory and of the one with EXIF's own tags."""
        first = self.first()
        below = [self.number("I", entry.at) for entry in first if entry.tag == EXIF_DIRECTORY]
        return [*first, *(entry for start in below for entry in self.entries(start))]

    def value(self, entry: Entry) -> int:
        """The number that an entry holds itself."""
        return self.number("H" if entry.kind == SHORT else "I", entry.at)

    def put(self, entry: Entry, value: int) -> None:
        """Puts a number in place of the one that an entry holds itself."""
        if entry.kind in (SHORT, LONG) and entry.values == 1 and value < (1 << (16 if entry.kind == SHORT else 32)):
            struct.pack_into(self.order + ("H" if entry.kind == SHORT else "I"), self.data, entry.at, value)


def orientation_of(exif: bytes | None) -> int | None:
    """EXIF orientation, 1 to 8; None where there is none, or none that makes sense."""
    block = _Block.of(exif or b"")
    found = [block.value(e) for e in block.first() if e.tag == ORIENTATION and e.kind in (SHORT, LONG)] if block else []
    return found[0] if found and 1 <= found[0] <= 8 else None


def upright_exif(exif: bytes, turning: Turning) -> bytes:
    """The same block, true for the upright picture: orientation 1, its size, its subject's place.

    The thumbnail, which shows the old pixels, is unlinked.
    """
    block = _Block.of(exif)
    if block is None:
        return exif
    entries = block.every()
    for entry in entries:
        if entry.tag == ORIENTATION:
            block.put(entry, 1)
        elif entry.tag in WIDTHS:
            block.put(entry, turning.width)
        elif entry.tag in HEIGHTS:
            block.put(entry, turning.height)
        elif entry.tag in SUBJECTS and entry.kind == SHORT and 2 <= entry.values <= 4:
            _move_subject(block, entry, turning)
    if turning.transposes:
        _exchange_pairs(block, entries)
    _unlink_thumbnail(block)
    return bytes(block.data)


def _move_subject(block: _Block, entry: Entry, turning: Turning) -> None:
    at = entry.at if entry.values == 2 else block.number("I", entry.at)
    if at + 2 * entry.values > len(block.data):
        return
    numbers = list(struct.unpack_from(f"{block.order}{entry.values}H", block.data, at))
    numbers[:2] = turning.pixel(numbers[0], numbers[1])
    if entry.values == 4 and turning.transposes:
        numbers[2:] = numbers[:1:-1]
    struct.pack_into(f"{block.order}{entry.values}H", block.data, at, *(min(max(n, 0), 65535) for n in numbers))


def _exchange_pairs(block: _Block, entries: Sequence[Entry]) -> None:
    places = {entry.tag: entry for entry in entries}
    for across, down in PAIRS:
        if across in places and down in places and places[across][1:3] == places[down][1:3]:
            a, b = (slice(places[tag].at, places[tag].at + 4) for tag in (across, down))
            block.data[a], block.data[b] = block.data[b], block.data[a]


def _unlink_thumbnail(block: _Block) -> None:
    start = block.number("I", 4)
    link = start + 2 + 12 * block.number("H", start)
    if link + 4 <= len(block.data):
        struct.pack_into(block.order + "I", block.data, link, 0)
