"""PNG: 8- and 16-bit pixels, and the chunks around them, so that metadata travels byte for byte."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import takewhile
from typing import BinaryIO, NamedTuple

import cv2
import numpy as np
from PIL import Image

from tasks.pictures.blocks.exif import PREFIX
from tasks.pictures.formats.format import Kind
from tasks.pictures.formats.pillow import PillowFormat, saved
from tasks.pictures.metadata import described, stored_orientation, unread
from tasks.pictures.picture import DecodeError, Header, Levels, Metadata, Picture, coded_levels, to_float, upright

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
XMP_KEYWORD = b"XML:com.adobe.xmp"
PNG_XMP = XMP_KEYWORD + b"\0"
TEXT = (b"tEXt", b"zTXt", b"iTXt")
NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
"""Chunks on which pixels depend."""
UNTRUE = (b"acTL", b"fcTL", b"fdAT", b"bKGD", b"hIST", b"sPLT", b"sBIT", b"caBX", b"iCCP", b"eXIf", b"iDOT")
"""Chunks that are read, or that say what need not hold of other pixels."""
RAW_EXIF = (b"Raw profile type exif", b"Raw profile type APP1")
RAW_XMP = b"Raw profile type xmp"
JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\0"


class Chunk(NamedTuple):
    """A chunk's kind and payload, and whether its sum is right."""

    kind: bytes
    payload: bytes
    sound: bool = True


class Png(PillowFormat):
    """PNG; Pillow decodes what has up to 8 bits, OpenCV the rest. Both see only the chunks that they need."""

    kind = Kind("PNG", PNG_SIGNATURE, suffixes=("png",))
    animated = True

    def opened(self, stream: BinaryIO) -> Image.Image:
        chunks = list(png_chunks(stream))
        image = super().opened(io.BytesIO(_bare(chunks)))
        found = _metadata(chunks)
        blocks = {"icc_profile": found.icc, "exif": found.exif, "xmp": found.xmp}
        image.info |= {name: block for name, block in blocks.items() if block}
        return image

    def header(self, stream: BinaryIO) -> tuple[Header, int]:
        chunks = list(takewhile(lambda chunk: chunk.kind != b"IDAT", png_chunks(stream)))
        if any(chunk.kind == b"CgBI" for chunk in chunks):
            sentence = "expected a PNG, came Apple's own form of it for telephones (CgBI); convert it first"
            raise DecodeError("unsupported_format", sentence)
        image = super().opened(io.BytesIO(_bare([*chunks, Chunk(b"IDAT", b"")])))
        mode = _mode(chunks[0].payload, image.mode)
        frames = next((int.from_bytes(chunk.payload[:4], "big") for chunk in chunks if chunk.kind == b"acTL"), 1)
        return Header(self.kind.name, image.width, image.height, mode), frames

    def decode(self, data: bytes, header: Header) -> Picture:
        if header.mode.endswith(";16"):
            return _decoded_deep(data, header)
        return super().decode(data, header)

    def left_out(self, data: bytes, image: Image.Image) -> tuple[str, ...]:
        return _left_out(list(png_chunks(io.BytesIO(data))))

    def encode(self, picture: Picture, original: bytes, provenance: Mapping[str, str]) -> bytes:
        levels = coded_levels(picture)
        bare = saved(levels, "PNG") if picture.depth == 8 else _coded_deep(levels)
        return put_png_metadata(bare, described(read_png_metadata(original), picture, provenance))


def png_chunks(stream: BinaryIO) -> Iterator[Chunk]:
    """Every chunk up to IEND, or to where the file breaks off: a chunk that is cut is the last and not sound."""
    stream.seek(len(PNG_SIGNATURE))
    while len(head := stream.read(8)) == 8:
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        payload, check = stream.read(length), stream.read(4)
        yield Chunk(kind, payload, check == struct.pack(">I", zlib.crc32(kind + payload)))
        if kind == b"IEND":
            return


def _bare(chunks: Iterable[Chunk]) -> bytes:
    """A PNG of nothing but what pixels depend on. Raises ValueError where one of those is damaged."""
    needed = [chunk for chunk in chunks if chunk.kind in NEEDED]
    broken = next((chunk.kind.decode() for chunk in needed if not chunk.sound), None)
    if broken:
        raise ValueError(f"its chunk {broken} is cut off or damaged")
    end = [] if needed and needed[-1].kind == b"IEND" else [(b"IEND", b"")]
    return PNG_SIGNATURE + png_bytes([*((chunk.kind, chunk.payload) for chunk in needed), *end])


def _left_out(chunks: list[Chunk]) -> tuple[str, ...]:
    """Notes on what a PNG holds beside its pixels, and a result will not hold."""
    notes = unread(_metadata(chunks))
    broken = sorted({chunk.kind.decode("latin-1") for chunk in chunks if not chunk.sound})
    if broken:
        notes += (f"damaged chunks left out, on which no pixel depends: {', '.join(broken)}",)
    if chunks[-1].kind != b"IEND":
        notes += ("the PNG's end is missing; every pixel is there",)
    if any(chunk.kind == b"caBX" for chunk in chunks):
        notes += ("signed Content Credentials left out: they do not hold for changed pixels",)
    return notes


def read_png_metadata(data: bytes) -> Metadata:
    """EXIF, XMP and ICC, wherever they stand; every other chunk that stays true is carried verbatim."""
    return _metadata(png_chunks(io.BytesIO(data)))


def _metadata(chunks: Iterable[Chunk]) -> Metadata:
    icc = exif = exif_in_text = xmp = xmp_in_text = None
    carried: list[tuple[str, bytes]] = []
    for kind, payload, _ in filter(lambda chunk: chunk.sound, chunks):
        keyword, text = _text(kind, payload) if kind in TEXT else (b"", None)
        profile = _raw_profile(text) if text is not None and keyword.startswith(b"Raw profile type") else None
        if kind == b"eXIf":
            exif = payload.removeprefix(PREFIX)
        elif kind == b"iCCP":
            icc = _unpacked(payload.partition(b"\0")[2][1:])
        elif keyword == XMP_KEYWORD:
            xmp = text
        elif profile is not None and keyword in RAW_EXIF and not profile.startswith(JPEG_XMP):
            exif_in_text = profile.removeprefix(PREFIX)
        elif profile is not None and keyword in (*RAW_EXIF, RAW_XMP):
            xmp_in_text = profile.removeprefix(JPEG_XMP)
        elif kind not in NEEDED and kind not in UNTRUE:
            carried.append((kind.decode("latin-1"), payload))
    return Metadata(icc=icc, exif=exif or exif_in_text, xmp=xmp or xmp_in_text, carried=tuple(carried))


def _text(kind: bytes, payload: bytes) -> tuple[bytes, bytes | None]:
    """Keyword and text of a text chunk; None for text that cannot be unpacked, which harms no pixel."""
    keyword, _, rest = payload.partition(b"\0")
    if kind == b"zTXt":
        return keyword, _unpacked(rest[1:])
    if kind == b"iTXt":
        text = rest[2:].split(b"\0", 2)[-1]  # behind language and translated keyword
        return keyword, _unpacked(text) if rest[:1] == b"\1" else text
    return keyword, rest


def _raw_profile(text: bytes) -> bytes | None:
    """What ImageMagick and others write in hexadecimal: a name, a length, then the digits."""
    digits = re.match(rb"\s*\S+\s+\d+\s+([0-9a-fA-F\s]*)$", text)
    packed = b"".join(digits[1].split()) if digits else b""
    return bytes.fromhex(packed.decode()) if packed and len(packed) % 2 == 0 else None


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


def _mode(header: bytes, mode: str) -> str:
    """Pillow's mode, or what the header's colour type says where the file has 16 bits, which Pillow would halve."""
    depth, colour_type = header[8:10]
    return {0: "L", 2: "RGB", 4: "LA", 6: "RGBA"}[colour_type] + ";16" if depth == 16 else mode


def _decoded_deep(data: bytes, header: Header) -> Picture:
    chunks = list(png_chunks(io.BytesIO(data)))
    found = _metadata(chunks)
    levels = cv2.imdecode(np.frombuffer(_bare(chunks), np.uint8), cv2.IMREAD_UNCHANGED)
    if levels is None or levels.dtype != np.uint16:
        raise ValueError("its pixels are damaged")
    grey = header.mode.startswith("L")
    levels = upright(levels.reshape(*levels.shape[:2], -1), stored_orientation(found.exif, found.xmp))
    colours = levels[..., [0, 0, 0]] if grey else levels[..., 2::-1]
    alpha = levels[..., -1] if levels.shape[2] in (2, 4) else None
    return Picture(to_float(colours), alpha, grey, header.format, 16, header.mode, _left_out(chunks))
