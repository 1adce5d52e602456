"""What a container says of itself, so that nobody else has to know it by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from tasks.pictures.picture import Header, Picture

HEAD = 32
"""Bytes of a file's beginning in which every container can be told."""


@dataclass(frozen=True, slots=True)
class Kind:
    """By what the files of one container are known; whether they can be decoded is another matter.

    signatures: (offset, bytes), one of which stands in the first HEAD bytes. brands: four bytes each, which an ISO
    base media file (`ftyp` at byte 4) begins with instead. suffixes: what claims by name to be one, without the dot.
    """

    name: str
    signatures: tuple[tuple[int, bytes], ...] = ()
    brands: tuple[bytes, ...] = ()
    suffixes: tuple[str, ...] = ()

    def begins(self, head: bytes) -> bool:
        """Whether a file that begins with these bytes is of this kind."""
        if head[4:8] == b"ftyp":
            return head[8:12] in self.brands
        return any(head[at : at + len(mark)] == mark for at, mark in self.signatures)


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
