"""The pieces that JPEG and PNG files are made of: read, chosen, and put into freshly coded files.

Pixels are a codec's business; here are only the pieces around them, so that metadata travels byte for byte.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator

from tasks.pictures.picture import Metadata

JPEG_EXIF = b"Exif\0\0"
JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\0"
JPEG_XMP_MORE = b"http://ns.adobe.com/xmp/extension/\0"
JPEG_ICC = b"ICC_PROFILE\0"
JPEG_PHOTOSHOP = b"Photoshop 3.0\0"
JPEG_ROOM = 65533
"""Bytes of payload that one JPEG segment can hold."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_XMP = b"XML:com.adobe.xmp\0"
PNG_CARRIED = {b"sRGB", b"gAMA", b"cHRM", b"cICP", b"pHYs", b"tEXt", b"zTXt", b"iTXt", b"tIME"}


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
        if marker == 0xE1 and payload.startswith(JPEG_EXIF):
            exif = exif or payload[len(JPEG_EXIF) :]
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
        segments.append((0xE1, JPEG_EXIF + metadata.exif))
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


def webp_is_lossless(data: bytes) -> bool:
    """Whether a WebP's picture is coded without loss (chunk VP8L)."""
    position = 12
    while position + 8 <= len(data):
        kind, length = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        if kind in (b"VP8L", b"VP8 "):
            return kind == b"VP8L"
        position += 8 + length + length % 2
    return False
