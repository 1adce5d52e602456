"""What containers share that Pillow decodes: their header, and 8-bit pixels (16-bit grey too), upright, grey or RGB."""

from __future__ import annotations

import io
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageCms

from tasks.pictures.blocks.exif import PREFIX
from tasks.pictures.formats.format import Kind
from tasks.pictures.metadata import stored_orientation, unread
from tasks.pictures.picture import DecodeError, Depth, Header, Levels, Metadata, Picture, to_float, upright

GREY_MODES = {"1", "L", "LA", "La", "I;16", "I;16B", "I;16L"}
"""Pillow's modes without colour."""


class PillowFormat:
    """A container that Pillow knows by the same name; each says beside that what is its own."""

    kind: Kind
    animated = False
    palette_becomes = "RGB"
    """With what a picture is written that came with a palette."""

    def lacking(self) -> str:
        return ""

    def opened(self, stream: BinaryIO) -> Image.Image:
        """A file as Pillow sees it, its pixels not decoded yet."""
        return Image.open(stream, formats=[self.kind.name])

    def header(self, stream: BinaryIO) -> tuple[Header, int]:
        image = self.opened(stream)
        return Header(self.kind.name, image.width, image.height, image.mode), frames_of(image)

    def decode(self, data: bytes, header: Header) -> Picture:
        """Palettes and CMYK become RGB, and a note says so."""
        image = self.opened(io.BytesIO(data))
        image.load()
        plain, notes = _plain(image, header, self.palette_becomes)
        levels = upright(np.asarray(plain), self.orientation(image))
        alpha = levels[..., -1].copy() if plain.mode in ("LA", "RGBA") else None
        grey = plain.mode in GREY_MODES
        if grey:
            levels = np.dstack([levels if levels.ndim == 2 else levels[..., 0]] * 3)
        depth: Depth = 16 if levels.dtype == np.uint16 else 8
        notes += self.left_out(data, image)
        return Picture(to_float(levels[..., :3]), alpha, grey, header.format, depth, header.mode, notes)

    def orientation(self, image: Image.Image) -> int:
        """How Pillow's pixels still lie, as EXIF numbers it."""
        return stored_orientation(exif_of(image), image.info.get("xmp"))

    def left_out(self, data: bytes, image: Image.Image) -> tuple[str, ...]:
        """Notes on what the file holds beside the pixels that Pillow makes of it, and a result will not hold."""
        return unread(metadata_of(image))


def exif_of(image: Image.Image) -> bytes | None:
    """The EXIF block of an opened file, without its prefix."""
    block = image.info.get("exif")
    return block.removeprefix(PREFIX) if isinstance(block, bytes) else None


def frames_of(image: Image.Image) -> int:
    """How many pictures an opened file holds."""
    return int(getattr(image, "n_frames", 1))


def metadata_of(image: Image.Image) -> Metadata:
    """What an opened file holds beside its pixels."""
    return Metadata(icc=image.info.get("icc_profile"), exif=exif_of(image), xmp=image.info.get("xmp"))


def written_blocks(found: Metadata) -> dict[str, bytes]:
    """EXIF, XMP and profile as `saved` takes them, those that there are."""
    exif = found.exif and PREFIX + found.exif
    blocks = {"exif": exif, "xmp": found.xmp, "icc_profile": found.icc}
    return {name: block for name, block in blocks.items() if block}


def saved(levels: Levels, name: str, **options: Any) -> bytes:
    """Levels as a file of the container that Pillow calls `name`; `options` are those of its `save`."""
    sink = io.BytesIO()
    Image.fromarray(levels).save(sink, name, **options)
    return sink.getvalue()


def _plain(image: Image.Image, header: Header, palette_becomes: str) -> tuple[Image.Image, tuple[str, ...]]:
    mode = image.mode
    if mode == "CMYK":
        return _cmyk_to_srgb(image), ("CMYK converted to sRGB; written as RGB",)
    if mode in ("P", "PA"):
        return _without_palette(image), (f"palette expanded; written with {palette_becomes}",)
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
