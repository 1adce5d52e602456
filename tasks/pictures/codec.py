"""One decode, one encode: every picture that the project reads or writes goes through here.

Content decides the format, limits are checked from the header, orientation is applied, and what cannot be an
input is refused with a reason code and a sentence. It knows files as bytes; paths are the storage's business.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import BinaryIO

from PIL import Image

from tasks.pictures.formats.format import HEAD, Format
from tasks.pictures.formats.table import decoded, format_named, sniff
from tasks.pictures.picture import DecodeError, Header, Limits, Picture

Image.MAX_IMAGE_PIXELS = None  # Limits does this job for every file that comes through here


def read_header(stream: BinaryIO, limits: Limits | None = None) -> Header:
    """Reads a picture's header from a seekable stream; no pixel is decoded.

    Raises DecodeError with `empty_file`, `not_an_image`, `unsupported_format`, `animated`, `multi_page`,
    `too_large`, or `corrupt` where a known format's header makes no sense.
    """
    stream.seek(0)
    container = _format_of(stream.read(HEAD))
    stream.seek(0)
    try:
        header, frames = container.header(stream)
    except DecodeError:
        raise
    except Exception as error:  # MemoryError, too: a header that asks for gigabytes is a broken one
        raise DecodeError("corrupt", _broken(container.kind.name, error)) from error
    _check_size(header, limits or Limits())
    if frames > 1:
        several = f"an animation of {frames} frames" if container.animated else f"a file of {frames} pages"
        sentence = f"expected one picture, came {several}; split it first"
        raise DecodeError("animated" if container.animated else "multi_page", sentence, header)
    return header


def _format_of(head: bytes) -> Format:
    if not head:
        raise DecodeError("empty_file", "expected a picture, the file has zero bytes; fetch it again from its source")
    name = sniff(head)
    if name is None:
        raise DecodeError("not_an_image", f"expected a picture, the content begins with {head[:8]!r}; nothing to do")
    hint = format_named(name).lacking() if name in decoded() else "convert it to PNG, TIFF or JPEG first"
    if hint:
        raise DecodeError("unsupported_format", f"expected one of {', '.join(decoded())}, came {name}; {hint}")
    return format_named(name)


def _check_size(header: Header, limits: Limits) -> None:
    if min(header.width, header.height) < 1:
        raise DecodeError("corrupt", f"expected a size, the header says {header.width} × {header.height}", header)
    if header.width * header.height > limits.max_pixels or max(header.width, header.height) > limits.max_side:
        raise DecodeError(
            "too_large",
            f"expected at most {limits.max_pixels:,} pixels and sides of {limits.max_side:,}, came "
            f"{header.width:,} × {header.height:,}; raise the limit where memory allows it",
            header,
        )


def _broken(name: str, error: Exception) -> str:
    what = str(error) or type(error).__name__
    return f"expected a whole {name} file, decoding it failed ({what}); fetch it again from its source"


def decode(data: bytes, limits: Limits | None = None) -> Picture:
    """Decodes a file's bytes to an upright picture.

    Raises DecodeError: what `read_header` raises, and `corrupt` for damaged pixels.
    """
    header = read_header(io.BytesIO(data), limits)
    try:
        return format_named(header.format).decode(data, header)
    except (DecodeError, MemoryError):
        raise
    except Exception as error:
        raise DecodeError("corrupt", _broken(header.format, error), header) from error


def encode(picture: Picture, original: bytes, provenance: Mapping[str, str]) -> bytes:
    """Codes a picture as its original was: same container, depth, profile and metadata, upright.

    original: the bytes that `picture` was decoded from. provenance: text by key, written to XMP where the container
    holds it (not BMP, not GIF). Lossless containers keep every pixel; a JPEG is coded with quantisation steps that
    divide the original's, so that untouched blocks stay nearly what they were.
    """
    return format_named(picture.format).encode(picture, original, provenance)
