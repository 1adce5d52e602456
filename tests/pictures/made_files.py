"""Small files of every container, made anew each time."""

import io
import struct
import zlib

import cv2
import numpy as np
import tifffile
from PIL import Image, ImageCms

from tasks.pictures.formats import png

PROVENANCE = {"software": "mpsr-batch 0.1", "recipe": "compact", "key": "ab" * 32, "weights": "yunet:0123"}
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SHAPE = (37, 53)


def photo(channels: int = 3, depth: int = 8, seed: int = 0) -> np.ndarray:
    """A smooth picture with some noise, so that JPEG has something ordinary to code."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((5, 7, channels))
    smooth = cv2.resize(coarse, SHAPE[::-1], interpolation=cv2.INTER_CUBIC).reshape(*SHAPE, channels)
    noisy = np.clip(smooth + rng.normal(0, 0.01, smooth.shape), 0, 1)
    levels = np.rint(noisy * (2**depth - 1)).astype(np.uint8 if depth == 8 else np.uint16)
    return levels[..., 0] if channels == 1 else levels


def pillow(array: np.ndarray, kind: str, **options) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(array).save(sink, kind, **options)
    return sink.getvalue()


def tiff(array: np.ndarray, **options) -> bytes:
    sink = io.BytesIO()
    tifffile.imwrite(sink, array, metadata=None, **options)
    return sink.getvalue()


def png16(array: np.ndarray) -> bytes:
    order = [2, 1, 0, 3][: array.shape[2]] if array.ndim == 3 else None
    return bytes(cv2.imencode(".png", array if order is None else np.ascontiguousarray(array[..., order]))[1])


def grey_alpha_png16(array: np.ndarray) -> bytes:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    header = struct.pack(">IIBBBBB", SHAPE[1], SHAPE[0], 16, 4, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    sums = [(kind, body, zlib.crc32(kind + body)) for kind, body in chunks]
    coded = [struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check) for kind, body, check in sums]
    return png.PNG_SIGNATURE + b"".join(coded)


def exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[0x0112] = orientation
    block[0x010F] = "Contax"
    return block.tobytes()


LOSSLESS = {
    "png": lambda: pillow(photo(), "PNG"),
    "png rgba": lambda: pillow(photo(4), "PNG"),
    "png grey": lambda: pillow(photo(1), "PNG"),
    "png grey alpha": lambda: pillow(photo(2), "PNG"),
    "png 16": lambda: png16(photo(3, 16)),
    "png 16 rgba": lambda: png16(photo(4, 16)),
    "png 16 grey": lambda: png16(photo(1, 16)),
    "png 16 grey alpha": lambda: grey_alpha_png16(photo(2, 16)),
    "tiff": lambda: pillow(photo(), "TIFF"),
    "tiff lzw": lambda: pillow(photo(), "TIFF", compression="tiff_lzw"),
    "tiff rgba": lambda: pillow(photo(4), "TIFF", compression="tiff_adobe_deflate"),
    "tiff grey": lambda: pillow(photo(1), "TIFF"),
    "tiff 16": lambda: tiff(photo(3, 16), photometric="rgb"),
    "tiff 16 deflate": lambda: tiff(photo(3, 16), photometric="rgb", compression="zlib", predictor=True),
    "tiff 16 lzw": lambda: bytes(cv2.imencode(".tif", photo(3, 16)[..., ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, 5])[1]),
    "tiff 16 rgba": lambda: tiff(photo(4, 16), photometric="rgb", extrasamples=["unassalpha"]),
    "tiff 16 premultiplied": lambda: tiff(photo(4, 16), photometric="rgb", extrasamples=["assocalpha"]),
    "tiff premultiplied": lambda: tiff(photo(4), photometric="rgb", extrasamples=["assocalpha"]),
    "tiff grey alpha": lambda: tiff(
        photo(2), photometric="minisblack", extrasamples=["unassalpha"], planarconfig="contig"
    ),
    "tiff 16 grey": lambda: tiff(photo(1, 16), photometric="minisblack"),
    "tiff 16 grey alpha": lambda: tiff(
        photo(2, 16), photometric="minisblack", extrasamples=["unassalpha"], planarconfig="contig"
    ),
    "tiff 16 planar": lambda: tiff(photo(3, 16).transpose(2, 0, 1).copy(), photometric="rgb", planarconfig="separate"),
    "webp lossless": lambda: pillow(photo(), "WEBP", lossless=True),
    "webp lossless rgba": lambda: pillow(photo(4), "WEBP", lossless=True, exact=True),
    "bmp": lambda: pillow(photo(), "BMP"),
    "bmp grey": lambda: pillow(photo(1), "BMP"),
}
DEEP = {name for name in LOSSLESS if " 16" in name}
