"""What a container says of itself, so that nobody else has to know it by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from tasks.pictures.picture import Header, Picture

HEAD = 64
"""Bytes of a file's beginning in which every container can be told."""
ANY_CODEC = (b"mif1", b"msf1", b"miaf")
"""Major brands that say nothing of the codec: the compatible brands behind them do."""


@dataclass(frozen=True, slots=True)
class Kind:
    """By what the files of one container are known; whether they can be decoded is another matter.

    pattern: regular expression (DOTALL) that matches a file's first bytes. brands: four bytes each, with which an ISO
    base media file (`ftyp` at byte 4) begins instead. suffixes: what claims by name to be one, without the dot.
    """

    name: str
    pattern: bytes = b""
    brands: tuple[bytes, ...] = ()
    suffixes: tuple[str, ...] = ()

    def begins(self, head: bytes) -> bool:
        """Whether a file that begins with these bytes is of this kind."""
        if head[4:8] == b"ftyp":
            return any(brand in self.brands for brand in _brands(head))
        return bool(self.pattern and re.match(self.pattern, head, re.DOTALL))


def _brands(head: bytes) -> list[bytes]:
    """What an ISO base media file says that it is: its major brand, or the others where that names no codec."""
    major, length = head[8:12], int.from_bytes(head[:4], "big")
    if major not in ANY_CODEC:
        return [major]
    return [major, *(head[at : at + 4] for at in range(16, min(length, len(head)) - 3, 4))]


class Format(Protocol):
    """A container that can be read and written. `PillowFormat` has most of it ready for what Pillow knows."""

    @property
    def kind(self) -> Kind: ...

    @property
    def animated(self) -> bool:
        """Whether several pictures in one file are frames of an animation; else they are pages."""

    def lacking(self) -> str:
        """What to do before it can be read here ("install …"), asked before anything else; "" where nothing lacks."""

    def header(self, stream: BinaryIO) -> tuple[Header, int]:
        """What the header at the stream's beginning says, and how many pictures the file holds.

        Raises DecodeError for what is no input; any other error means a broken file.
        """

    def decode(self, data: bytes, header: Header) -> Picture:
        """The upright picture of a whole file with this header. Raises like `header`."""

    def encode(self, picture: Picture, original: bytes, provenance: Mapping[str, str]) -> bytes:
        """The picture coded as its original was, with its metadata; the provenance goes to XMP where it has some."""
