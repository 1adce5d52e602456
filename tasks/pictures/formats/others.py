"""What Pillow decodes and codes without help of ours: WebP, HEIF, BMP and GIF; and 8-bit pixels of every other kind."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from tasks.pictures.formats.jpeg import JPEG_EXIF
from tasks.pictures.formats.tiff import upright
from tasks.pictures.metadata import described
from tasks.pictures.picture import DecodeError, Header, Metadata, Picture, coded_levels, to_float

GREY_MODES = {"1", "L", "LA", "La", "I;16", "I;16B", "I;16L"}
"""Pillow's modes without colour."""


def webp_is_lossless(data: bytes) -> bool:
    """Whether a WebP's picture is coded without loss (chunk VP8L)."""
    position = 12
    while position + 8 <= len(data):
        kind, length = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        if kind in (b"VP8L", b"VP8 "):
            return kind == b"VP8L"
        position += 8 + length + length % 2
    return False


def encode_plain(picture: Picture, original: bytes) -> bytes:
    """BMP and GIF, which hold no metadata but BMP's density; GIF has 256 colours."""
    sink = io.BytesIO()
    with Image.open(io.BytesIO(original), formats=[picture.format]) as source:
        density = source.info.get("dpi")
    image = Image.fromarray(coded_levels(picture))
    image.save(sink, picture.format, **({"dpi": density} if density and picture.format == "BMP" else {}))
    return sink.getvalue()


def encode_pillow(picture: Picture, original: bytes, provenance: Mapping[str, str]) -> bytes:
    """WebP (lossless where the original is, else quality 95) and HEIF (quality 95)."""
    with Image.open(io.BytesIO(original), formats=[picture.format]) as image:
        exif, packet, icc = (image.info.get(name) for name in ("exif", "xmp", "icc_profile"))
    exif = exif.removeprefix(JPEG_EXIF) if exif else None
    found = described(Metadata(icc=icc, exif=exif, xmp=packet), picture, provenance)
    options: dict[str, Any] = {"quality": 95, "xmp": found.xmp}
    options |= {"exif": JPEG_EXIF + found.exif} if found.exif else {}
    options |= {"icc_profile": found.icc} if found.icc else {}
    if picture.format == "WEBP":
        options |= {"lossless": webp_is_lossless(original), "exact": True, "method": 4}
    sink = io.BytesIO()
    Image.fromarray(coded_levels(picture)).save(sink, picture.format, **options)
    return sink.getvalue()


def from_pillow(image: Image.Image, header: Header, orientation: int) -> Picture:
    """An 8-bit picture (16-bit grey too) from Pillow; palettes and CMYK become RGB, and a note says so."""
    kept = _not_kept(image)
    image, notes = _plain(image, header)
    notes += kept
    levels = upright(np.asarray(image), orientation)
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
