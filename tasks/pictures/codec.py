"""One decode, one encode: every picture that the project reads or writes goes through here.

Content decides the format, limits are checked from the header, orientation is applied, and what cannot be an
input is refused with a reason code and a sentence. It knows files as bytes; paths are the storage's business.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import BinaryIO

from PIL import Image

from tasks.pictures import metadata
from tasks.pictures.formats import tiff
from tasks.pictures.formats.jpeg import JPEG_EXIF, encode_jpeg
from tasks.pictures.formats.others import encode_pillow, encode_plain, from_pillow
from tasks.pictures.formats.png import decode_deep_png, encode_png, png_mode, read_png_metadata
from tasks.pictures.formats.table import DECODED, sniff
from tasks.pictures.picture import DecodeError, Header, Limits, Picture

Image.MAX_IMAGE_PIXELS = None  # Limits does this job for every file that comes through here


def read_header(stream: BinaryIO, limits: Limits | None = None) -> Header:
    """Reads a picture's header from a seekable stream; no pixel is decoded.

    Raises DecodeError with `empty_file`, `not_an_image`, `unsupported_format`, `animated`, `multi_page`,
    `too_large`, or `corrupt` where a known format's header makes no sense.
    """
    limits = limits or Limits()
    stream.seek(0)
    head = stream.read(32)
    name = _known_format(head)
    stream.seek(0)
    try:
        header, frames = tiff.read_tiff_header(stream) if name == "TIFF" else _pillow_header(stream, name)
    except DecodeError:
        raise
    except Exception as error:  # MemoryError, too: a header that asks for gigabytes is a broken one
        raise DecodeError("corrupt", _broken(name, error)) from error
    _check_size(header, limits)
    if frames > 1:
        animation = name in ("GIF", "WEBP", "PNG")
        kind = "an animation of" if animation else "a file of"
        sentence = f"expected one picture, came {kind} {frames} {'frames' if animation else 'pages'}; split it first"
        raise DecodeError("animated" if animation else "multi_page", sentence, header)
    return header


def _known_format(head: bytes) -> str:
    if not head:
        raise DecodeError("empty_file", "expected a picture, the file has zero bytes; fetch it again from its source")
    name = sniff(head)
    if name is None:
        raise DecodeError("not_an_image", f"expected a picture, the content begins with {head[:8]!r}; nothing to do")
    if name not in DECODED or (name == "HEIF" and not _has_heif()):
        hint = "install pillow-heif (extra `heif`)" if name == "HEIF" else "convert it to PNG, TIFF or JPEG first"
        raise DecodeError("unsupported_format", f"expected one of {', '.join(DECODED)}, came {name}; {hint}")
    return name


def _has_heif() -> bool:
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener(thumbnails=False)
    return True


def _open(stream: BinaryIO, name: str) -> Image.Image:
    return Image.open(stream, formats=["JPEG", "MPO"] if name == "JPEG" else [name])


def _pillow_header(stream: BinaryIO, name: str) -> tuple[Header, int]:
    image = _open(stream, name)
    frames = 1 if name == "JPEG" else int(getattr(image, "n_frames", 1))
    mode = image.mode
    if name == "PNG":
        mode = png_mode(stream, mode)
    return Header(name, image.width, image.height, mode), frames


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
        return _decode(data, header)
    except (DecodeError, MemoryError):
        raise
    except Exception as error:
        raise DecodeError("corrupt", _broken(header.format, error), header) from error


def _decode(data: bytes, header: Header) -> Picture:
    if header.format == "TIFF" and (plain := tiff.decode_plain_tiff(data, header)):
        return plain
    if header.format == "PNG":
        found = read_png_metadata(data)  # checks every chunk's sum, and that the file is whole
        if header.mode.endswith(";16"):
            return decode_deep_png(data, header, metadata.orientation_of(found.exif))
    image = _open(io.BytesIO(data), header.format)
    image.load()
    orientation = 1 if header.format in ("TIFF", "HEIF") else metadata.orientation_of(_exif(image))
    return from_pillow(image, header, orientation)


def _exif(image: Image.Image) -> bytes | None:
    block = image.info.get("exif")
    return block.removeprefix(JPEG_EXIF) if isinstance(block, bytes) else None


def encode(picture: Picture, original: bytes, provenance: Mapping[str, str]) -> bytes:
    """Codes a picture as its original was: same container, depth, profile and metadata, upright.

    original: the bytes that `picture` was decoded from. provenance: text by key, written to XMP where the container
    holds it (not BMP, not GIF). Lossless containers keep every pixel; a JPEG is coded with quantisation steps that
    divide the original's, so that untouched blocks stay nearly what they were.
    """
    match picture.format:
        case "JPEG":
            return encode_jpeg(picture, original, provenance)
        case "PNG":
            return encode_png(picture, original, provenance)
        case "TIFF":
            return tiff.encode_tiff(picture, original, provenance)
        case "BMP" | "GIF":
            return encode_plain(picture, original)
        case "WEBP" | "HEIF":
            return encode_pillow(picture, original, provenance)
