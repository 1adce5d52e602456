"""PNG: 8- and 16-bit pixels, and the chunks around them, so that metadata travels byte for byte."""

from __future__ import annotations

import dataclasses
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import BinaryIO

import cv2
import numpy as np

from tasks.pictures.formats.format import Kind
from tasks.pictures.formats.pillow import PillowFormat, saved
from tasks.pictures.metadata import described, orientation_of
from tasks.pictures.picture import Header, Levels, Metadata, Picture, coded_levels, to_float, upright

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_XMP = b"XML:com.adobe.xmp\0"
PNG_CARRIED = {b"sRGB", b"gAMA", b"cHRM", b"cICP", b"pHYs", b"tEXt", b"zTXt", b"iTXt", b"tIME"}


class Png(PillowFormat):
    """PNG; Pillow decodes what has up to 8 bits, OpenCV the rest."""

    kind = Kind("PNG", ((0, PNG_SIGNATURE),), suffixes=("png",))
    animated = True

    def header(self, stream: BinaryIO) -> tuple[Header, int]:
        header, frames = super().header(stream)
        return dataclasses.replace(header, mode=_mode(stream, header.mode)), frames

    def decode(self, data: bytes, header: Header) -> Picture:
        found = read_png_metadata(data)  # checks every chunk's sum, and that the file is whole
        if header.mode.endswith(";16"):
            return _decoded_deep(data, header, orientation_of(found.exif))
        return super().decode(data, header)

    def encode(self, picture: Picture, original: bytes, provenance: Mapping[str, str]) -> bytes:
        levels = coded_levels(picture)
        bare = saved(levels, "PNG") if picture.depth == 8 else _coded_deep(levels)
        return put_png_metadata(bare, described(read_png_metadata(original), picture, provenance))


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, payload) of every chunk up to IEND. Raises ValueError where a chunk is cut off or damaged."""
    position = len(PNG_SIGNATURE)
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        kind, payload = data[position + 4 : position + 8], data[position + 8 : position + 8 + length]
        check = data[position + 8 + length : position + 12 + length]
        if zlib.crc32(kind + payload) != int.from_bytes(check, "big") or len(check) < 4:
            raise ValueError(f"PNG chunk {kind!r} at byte {position} is cut off or damaged")
        yield kind, payload
        if kind == b"IEND":
            return
        position += 12 + length
    raise ValueError("the PNG ends before its IEND chunk")


def read_png_metadata(data: bytes) -> Metadata:
    """EXIF, XMP and ICC; text, density, gamma and time are carried verbatim."""
    exif = xmp = icc = None
    carried: list[tuple[str, bytes]] = []
    for kind, payload in png_chunks(data):
        if kind == b"eXIf":
            exif = payload
        elif kind == b"iTXt" and payload.startswith(PNG_XMP):
            xmp = _itxt_text(payload)
        elif kind == b"iCCP":
            icc = _unpacked(payload.partition(b"\0")[2][1:])
        elif kind in PNG_CARRIED and not payload.startswith((b"Raw profile type exif", b"Raw profile type APP1")):
            carried.append((kind.decode(), payload))
    return Metadata(icc=icc, exif=exif, xmp=xmp, carried=tuple(carried))


def _itxt_text(payload: bytes) -> bytes | None:
    """The text behind keyword, compression (2 bytes), language and translated keyword."""
    rest = payload[len(PNG_XMP) :]
    text = rest[2:].split(b"\0", 2)[-1]
    return _unpacked(text) if rest[:1] == b"\1" else text


def _unpacked(packed: bytes) -> bytes | None:
    """At most 16 MiB of deflated bytes; None where they are damaged, which harms no pixel."""
    try:
        return zlib.decompressobj().decompress(packed, 1 << 24)
    except zlib.error:
        return None


def put_png_metadata(bare: bytes, metadata: Metadata) -> bytes:
    """A freshly coded PNG with the metadata's chunks behind its header."""
    chunks: list[tuple[bytes, bytes]] = []
    if metadata.icc:
        chunks.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(metadata.icc)))
    chunks += [(kind.encode(), payload) for kind, payload in metadata.carried]
    if metadata.exif:
        chunks.append((b"eXIf", metadata.exif))
    if metadata.xmp:
        chunks.append((b"iTXt", PNG_XMP + b"\0\0\0\0" + metadata.xmp))
    header_end = len(PNG_SIGNATURE) + 12 + 13
    return bare[:header_end] + png_bytes(chunks) + bare[header_end:]


def png_bytes(chunks: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Chunks (kind, payload) with their lengths and sums, one after the other."""
    return b"".join(
        struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))
        for kind, payload in chunks
    )


def _coded_deep(levels: Levels) -> bytes:
    """A bare 16-bit PNG: every row as its difference to the row above (filter 2), which suits photographs."""
    height, width, channels = (*levels.shape, 1)[:3]
    rows = np.ascontiguousarray(levels.astype(">u2")).view(np.uint8).reshape(height, -1)
    filtered = np.full((height, rows.shape[1] + 1), 2, np.uint8)
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(filtered.tobytes(), 6)), (b"IEND", b"")]
    return PNG_SIGNATURE + png_bytes(chunks)


def _mode(stream: BinaryIO, mode: str) -> str:
    """Pillow's mode, or what the header's colour type says where the file has 16 bits, which Pillow would halve."""
    stream.seek(24)
    depth, colour_type = stream.read(2)
    return {0: "L", 2: "RGB", 4: "LA", 6: "RGBA"}[colour_type] + ";16" if depth == 16 else mode


def _decoded_deep(data: bytes, header: Header, orientation: int) -> Picture:
    levels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if levels is None:
        raise ValueError("OpenCV could not decode it")
    grey = header.mode.startswith("L")
    levels = upright(levels.reshape(*levels.shape[:2], -1), orientation)
    colours = levels[..., [0, 0, 0]] if grey else levels[..., 2::-1]
    alpha = levels[..., -1] if levels.shape[2] in (2, 4) else None
    return Picture(to_float(colours), alpha, grey, header.format, 16, header.mode)
