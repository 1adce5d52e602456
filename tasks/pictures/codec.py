"""One decode, one encode: every picture that the project reads or writes goes through here.

Content decides the format, limits are checked from the header, orientation is applied, and what cannot be an
input is refused with a reason code and a sentence. It knows files as bytes; paths are the storage's business.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image, ImageCms

from tasks.pictures import metadata
from tasks.pictures.formats import jpeg as image_encode
from tasks.pictures.formats import png as segments
from tasks.pictures.formats import tiff as tiff_io
from tasks.pictures.picture import DecodeError, Header, Limits, Picture, to_float

__all__ = ["DecodeError", "Header", "Limits", "Picture", "decode", "encode", "read_header", "sniff"]

Image.MAX_IMAGE_PIXELS = None  # Limits does this job for every file that comes through here

SIGNATURES: tuple[tuple[str, int, bytes], ...] = (
    ("JPEG", 0, b"\xff\xd8\xff"),
    ("PNG", 0, b"\x89PNG\r\n\x1a\n"),
    ("GIF", 0, b"GIF87a"),
    ("GIF", 0, b"GIF89a"),
    ("WEBP", 8, b"WEBPVP8"),
    ("TIFF", 0, b"II*\0"),
    ("TIFF", 0, b"MM\0*"),
    ("TIFF", 0, b"II+\0"),
    ("TIFF", 0, b"MM\0+"),
    ("BMP", 0, b"BM"),
    ("JPEG 2000", 0, b"\0\0\0\x0cjP  \r\n\x87\n"),
    ("JPEG XL", 0, b"\xff\x0a"),
    ("JPEG XL", 0, b"\0\0\0\x0cJXL \r\n\x87\n"),
    ("PSD", 0, b"8BPS"),
    ("FITS", 0, b"SIMPLE  ="),
    ("OpenEXR", 0, b"\x76\x2f\x31\x01"),
    ("ICO", 0, b"\0\0\1\0"),
    ("Fujifilm RAW", 0, b"FUJIFILMCCD-RAW"),
    ("PNM", 0, b"P5\n"),
    ("PNM", 0, b"P6\n"),
)
BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIF"),
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    b"crx ": "Canon RAW",
}
DECODED = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "HEIF")
GREY_MODES = {"1", "L", "LA", "La", "I;16", "I;16B", "I;16L"}
"""Pillow's modes without colour."""


def sniff(head: bytes) -> str | None:
    """Format by content (32 bytes suffice), or None for what is no picture. Not all that is known can be decoded."""
    if head[4:8] == b"ftyp":
        return BRANDS.get(head[8:12])
    return next((name for name, at, mark in SIGNATURES if head[at : at + len(mark)] == mark), None)


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
        header, frames = tiff_io.read_tiff_header(stream) if name == "TIFF" else _pillow_header(stream, name)
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
        mode = _png_mode(stream, mode)
    return Header(name, image.width, image.height, mode), frames


def _png_mode(stream: BinaryIO, mode: str) -> str:
    """Pillow's mode, or what the header's colour type says where the file has 16 bits, which Pillow would halve."""
    stream.seek(24)
    depth, colour_type = stream.read(2)
    return {0: "L", 2: "RGB", 4: "LA", 6: "RGBA"}[colour_type] + ";16" if depth == 16 else mode


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
    if header.format == "TIFF" and (plain := tiff_io.decode_plain_tiff(data, header)):
        return plain
    if header.format == "PNG":
        found = segments.read_png_metadata(data)  # checks every chunk's sum, and that the file is whole
        if header.mode.endswith(";16"):
            return _decode_deep_png(data, header, metadata.orientation_of(found.exif))
    image = _open(io.BytesIO(data), header.format)
    image.load()
    orientation = 1 if header.format in ("TIFF", "HEIF") else metadata.orientation_of(_exif(image))
    return _from_pillow(image, header, orientation)


def _exif(image: Image.Image) -> bytes | None:
    block = image.info.get("exif")
    return block.removeprefix(segments.JPEG_EXIF) if isinstance(block, bytes) else None


def _decode_deep_png(data: bytes, header: Header, orientation: int) -> Picture:
    levels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if levels is None:
        raise ValueError("OpenCV could not decode it")
    grey = header.mode.startswith("L")
    levels = tiff_io.upright(levels.reshape(*levels.shape[:2], -1), orientation)
    colours = levels[..., [0, 0, 0]] if grey else levels[..., 2::-1]
    alpha = levels[..., -1] if levels.shape[2] in (2, 4) else None
    return Picture(to_float(colours), alpha, grey, "PNG", 16, header.mode)


def _from_pillow(image: Image.Image, header: Header, orientation: int) -> Picture:
    """An 8-bit picture (16-bit grey too) from Pillow; palettes and CMYK become RGB, and a note says so."""
    kept = _not_kept(image)
    image, notes = _plain(image, header)
    notes += kept
    levels = tiff_io.upright(np.asarray(image), orientation)
    alpha = levels[..., -1].copy() if image.mode in ("LA", "RGBA") else None
    grey = image.mode in GREY_MODES
    if grey:
        levels = np.dstack([levels if levels.ndim == 2 else levels[..., 0]] * 3)
    depth = 16 if levels.dtype == np.uint16 else 8
    return Picture(to_float(levels[..., :3]), alpha, grey, header.format, depth, header.mode, notes)  # type: ignore[arg-type]


def _not_kept(image: Image.Image) -> tuple[str, ...]:
    """What a file holds beside the 8-bit picture that Pillow makes of it."""
    if image.format == "MPO" and (count := int(getattr(image, "n_frames", 1))) > 1:
        return (f"{count} pictures in one file (a gain map, depth, a second view); the first is kept",)
    if (bits := int(image.info.get("bit_depth", 8))) > 8:
        return (f"{bits} bits reduced to 8",)
    return ()


def _plain(image: Image.Image, header: Header) -> tuple[Image.Image, tuple[str, ...]]:
    mode = image.mode
    if mode == "CMYK":
        return _cmyk_to_srgb(image), ("CMYK converted to sRGB; written as RGB",)
    if mode in ("P", "PA"):
        how = "a new palette" if header.format == "GIF" else "RGB"
        return _without_palette(image), (f"palette expanded; written with {how}",)
    if mode == "1":
        return image.convert("L"), ("one bit per pixel widened to eight",)
    if "transparency" in image.info and mode in ("L", "RGB"):
        return image.convert(mode + "A"), ("transparent colour written as alpha",)
    if mode in ("L", "LA", "RGB", "RGBA", "I;16"):
        return image, ()
    if mode in ("I;16B", "I;16L"):
        return image.convert("I;16"), ()
    if mode in ("RGBX", "YCbCr", "RGBa", "La"):
        return image.convert({"RGBa": "RGBA", "La": "LA"}.get(mode, "RGB")), ()
    raise DecodeError(
        "unsupported_format",
        f"expected grey, RGB, palette or CMYK with 8 or 16 bits, came mode {mode}; convert it to RGB first",
        header,
    )


def _without_palette(image: Image.Image) -> Image.Image:
    clear = image.mode == "PA" or "transparency" in image.info
    return image.convert("RGBA" if clear else "RGB")


def _cmyk_to_srgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError):
            pass  # a profile that is not one: the plain formula below
    return image.convert("RGB")


def encode(picture: Picture, original: bytes, provenance: Mapping[str, str]) -> bytes:
    """Codes a picture as its original was: same container, depth, profile and metadata, upright.

    original: the bytes that `picture` was decoded from. provenance: text by key, written to XMP where the container
    holds it (not BMP, not GIF). Lossless containers keep every pixel; a JPEG is coded with quantisation steps that
    divide the original's, so that untouched blocks stay nearly what they were.
    """
    match picture.format:
        case "JPEG":
            return image_encode.encode_jpeg(picture, original, provenance)
        case "PNG":
            return image_encode.encode_png(picture, original, provenance)
        case "TIFF":
            return tiff_io.encode_tiff(picture, original, provenance)
        case "BMP" | "GIF":
            return image_encode.encode_plain(picture, original)
        case "WEBP" | "HEIF":
            return image_encode.encode_pillow(picture, original, provenance)
