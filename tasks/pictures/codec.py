"""One decode, one encode: every picture that the project reads or writes goes through here.

Content decides the format, limits are checked from the header, orientation is applied, and what cannot be an
input is refused with a reason code and a sentence. It knows files as bytes; paths are the storage's business.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import BinaryIO

from PIL import Image

from tasks.pictures.formats.format import HEAD, Format
from tasks.pictures.formats.table import decoded, format_named, sniff
from tasks.pictures.picture import DecodeError, Header, Limits, Picture

Image.MAX_IMAGE_PIXELS = None  # Limits does this job for every file that comes through here
BEYOND_US = re.compile("unsupported|not supported|not implemented|imagecodecs", re.IGNORECASE)
"""What libraries say of a file that is whole, but beyond them."""
NOT_FOR_PEOPLE = re.compile(r"0x[0-9a-f]{6}|^\(|[<>{}\[\]]|\w\(|\w\.\w|\w_\w")
"""Signs of what libraries say to programmers: addresses, names of modules and functions, shapes of arrays."""


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
        raise _refusal(container.kind.name, error) from error
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
        raise DecodeError("not_an_image", f"expected a picture, the content begins with {_shown(head)}; nothing to do")
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


def _shown(head: bytes) -> str:
    """A file's first bytes as people know them: text in quotation marks, or numbers."""
    text = head[:16].decode("ascii", "replace").split("\n")[0].rstrip("\r")
    return f"“{text}”" if text and text.isprintable() and "\ufffd" not in text else f"the bytes {head[:8].hex(' ')}"


def _refusal(name: str, error: Exception, header: Header | None = None) -> DecodeError:
    """What a library's exception means. Its own words are kept where they are meant for people."""
    said = str(error)
    why = f" ({said})" if said and not NOT_FOR_PEOPLE.search(said) else ""
    if isinstance(error, NotImplementedError | ImportError) or BEYOND_US.search(said):
        sentence = f"expected an ordinary {name}, this one is of a kind that is not decoded here{why}; convert it first"
        return DecodeError("unsupported_format", sentence, header)
    sentence = f"expected a whole {name} file, this one is damaged{why}; fetch it again from its source"
    return DecodeError("corrupt", sentence, header)


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
        raise _refusal(header.format, error, header) from error


def encode(picture: Picture, original: bytes, provenance: Mapping[str, str]) -> bytes:
    """Codes a picture as its original was: same container, depth, profile and metadata, upright.

    original: the bytes that `picture` was decoded from. provenance: text by key, written to XMP where the container
    holds it (not BMP, not GIF). Lossless containers keep every pixel; a JPEG is coded with quantisation steps that
    divide the original's, so that untouched blocks stay nearly what they were.
    """
    return format_named(picture.format).encode(picture, original, provenance)
