"""The demo archive: real pictures from installed packages, aged on the spot, with their originals kept aside.

The portrait is scikit-image's (NASA, public domain); so are the pictures without a face. The same seed gives the
same bytes. It knows files and the degradation model, and nothing of recipes, runs or ledgers.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.resources import files
from math import log10
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image

from tasks.archive import degradation as d
from tasks.pictures import LUMA, Levels, Pixels, decode, to_levels

Box = tuple[int, int, int, int]
"""Left, top, width, height in pixels."""
Writer = Callable[[Pixels], bytes]

POOR = d.Degradation(downscale=5, blur_sigma=2, noise=14, jpeg=40)
"""Between the medium and the severe preset: plainly poor, and still plainly a face."""
FACE: Box = (170, 52, 104, 132)
"""Where the face is in the 512-pixel portrait."""

RESTORED = frozenset({"restored", "fallback"})
RESTORED_OR_LEFT = RESTORED | {"left_alone"}
"""For faces that a quality gate may find good enough, or that are nearly beyond finding."""
LEFT_ALONE, SKIPPED, QUARANTINED = frozenset({"left_alone"}), frozenset({"skipped"}), frozenset({"quarantined"})


@dataclass(frozen=True)
class Expected:
    """A file of the archive, what may become of it, and what it was before it was aged.

    path: relative to the archive. source: the file itself. outcomes: of tasks.books. truth: the clean original,
    outside the archive; None where there is nothing to measure. faces: boxes in the original.
    """

    path: str
    source: Path
    outcomes: frozenset[str]
    truth: Path | None = None
    faces: tuple[Box, ...] = ()


@dataclass(frozen=True)
class Gain:
    """PSNR (dB) and SSIM (of brightness) against the original, before and after, of the faces and of the whole."""

    path: str
    face_psnr: float
    face_psnr_restored: float
    face_ssim: float
    face_ssim_restored: float
    whole_psnr: float
    whole_psnr_restored: float
    whole_ssim: float
    whole_ssim_restored: float

    def as_dict(self) -> dict[str, str | float]:
        """All fields, for JSON."""
        return asdict(self)

    def cells(self) -> tuple[str, ...]:
        """Face PSNR and its gain, face SSIM and its gain, whole PSNR and its gain, as text."""
        pairs = (
            (self.face_psnr, self.face_psnr_restored, 2),
            (self.face_ssim, self.face_ssim_restored, 3),
            (self.whole_psnr, self.whole_psnr_restored, 2),
        )
        return tuple(
            text
            for before, after, digits in pairs
            for text in (f"{before:.{digits}f}", f"{after - before:+.{digits}f}")
        )


@dataclass(frozen=True)
class _Scene:
    """A clean picture and the faces in it."""

    pixels: Pixels
    faces: tuple[Box, ...]


@dataclass(frozen=True)
class _Aged:
    """One aged file: which scene, how it was aged, how it is written, what may become of it."""

    path: str
    scene: str
    degradation: d.Degradation
    write: Writer
    outcomes: frozenset[str] = RESTORED


def make(folder: Path, seed: int) -> list[Expected]:
    """Writes `folder/archive` and `folder/truth`; returns what is expected of every file of the archive."""
    archive, truth = folder / "archive", folder / "truth"
    scenes = _scenes()
    for name in {aged.scene for aged in AGED}:
        _put(truth / f"{name}.png", _png(scenes[name].pixels))
    expected = []
    for number, aged in enumerate(AGED):
        scene = scenes[aged.scene]
        data = aged.write(d.degrade(scene.pixels, aged.degradation, seed * 1000 + number))
        _put(archive / aged.path, data)
        original = truth / f"{aged.scene}.png"
        expected.append(Expected(aged.path, archive / aged.path, aged.outcomes, original, scene.faces))
    return expected + _others(archive, expected)


def gains(expected: Sequence[Expected], restored: Path) -> list[Gain]:
    """What restoration gained for every file with a known original and a file in the restored tree."""
    table = []
    for each in expected:
        after = restored / each.path
        if each.truth is not None and after.is_file():
            clean, aged, result = (decode(path.read_bytes()).pixels for path in (each.truth, each.source, after))
            if clean.shape == aged.shape == result.shape:
                table.append(_gain(each, clean, aged, result))
    return table


def _gain(each: Expected, clean: Pixels, aged: Pixels, result: Pixels) -> Gain:
    before, after = _measured(clean, aged, each.faces), _measured(clean, result, each.faces)
    pairs = [value for pair in zip(before, after, strict=True) for value in pair]
    return Gain(each.path, *pairs)


def _measured(clean: Pixels, other: Pixels, faces: Sequence[Box]) -> tuple[float, float, float, float]:
    """Face PSNR, face SSIM (means over the faces), whole PSNR, whole SSIM."""
    parts = [(_part(clean, box), _part(other, box)) for box in faces]
    face_psnr = float(np.mean([_psnr(a, b) for a, b in parts]))
    face_ssim = float(np.mean([_ssim(a, b) for a, b in parts]))
    return face_psnr, face_ssim, _psnr(clean, other), _ssim(clean, other)


def _part(pixels: Pixels, box: Box) -> Pixels:
    left, top, width, height = box
    return pixels[top : top + height, left : left + width]


def _psnr(clean: Pixels, other: Pixels) -> float:
    """dB over all channels, 100 at most, so that equal pictures have a number."""
    error = float(np.mean((clean - np.clip(other, 0, 1)) ** 2, dtype=np.float64))
    return 10 * log10(1 / max(error, 1e-10))


def _ssim(clean: Pixels, other: Pixels) -> float:
    """Of brightness, with scikit-image's window of 7 pixels."""
    from skimage.metrics import structural_similarity

    return float(structural_similarity(clean @ LUMA, np.clip(other, 0, 1) @ LUMA, data_range=1))


@lru_cache(maxsize=1)
def _scenes() -> dict[str, _Scene]:
    portrait = _bundled("astronaut.png")
    mirrored = np.ascontiguousarray(portrait[:, ::-1])
    left, top, width, height = FACE
    flipped = (512 - left - width, top, width, height)
    close = cv2.resize(portrait[10:310, 70:370], (480, 480), interpolation=cv2.INTER_CUBIC)
    small = cv2.resize(portrait, (300, 300), interpolation=cv2.INTER_AREA)
    rocket = cv2.resize(_bundled("rocket.jpg"), (450, 300), interpolation=cv2.INTER_AREA)
    return {
        "portrait": _Scene(portrait, (FACE,)),
        "grey": _Scene(_grey(portrait), (FACE,)),
        "mirrored": _Scene(mirrored, (flipped,)),
        "close": _Scene(np.clip(close, 0, 1), (_moved(FACE, -70, -10, 1.6),)),
        "pair": _Scene(
            np.hstack([portrait[:400, 60:380], mirrored[:400, 132:452]]),
            (_moved(FACE, -60, 0), _moved(flipped, 320 - 132, 0)),
        ),
        "poster": _Scene(np.hstack([small, rocket]), (_moved(FACE, 0, 0, 300 / 512),)),
    }


def _moved(box: Box, x: int, y: int, scale: float = 1.0) -> Box:
    left, top, width, height = box
    return round((left + x) * scale), round((top + y) * scale), round(width * scale), round(height * scale)


def _bundled(name: str) -> Pixels:
    """A picture that comes inside the scikit-image package."""
    return decode((files("skimage.data") / name).read_bytes()).pixels


def _grey(pixels: Pixels) -> Pixels:
    return np.repeat((pixels @ LUMA)[..., None], 3, axis=2)


def _saved(levels: Levels, kind: str, **options: object) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(levels).save(sink, kind, **options)
    return sink.getvalue()


def _jpeg(quality: int = 92) -> Writer:
    return lambda pixels: _saved(to_levels(pixels, 8), "JPEG", quality=quality)


def _png(pixels: Pixels) -> bytes:
    return _saved(to_levels(pixels, 8), "PNG", compress_level=3)


def _webp(pixels: Pixels) -> bytes:
    return _saved(to_levels(pixels, 8), "WEBP", quality=90)


def _bmp(pixels: Pixels) -> bytes:
    return _saved(to_levels(pixels, 8), "BMP")


def _grey_jpeg(pixels: Pixels) -> bytes:
    return _saved(to_levels(pixels[..., 1], 8), "JPEG", quality=92)


def _grey_png(pixels: Pixels) -> bytes:
    return _saved(to_levels(pixels[..., 1], 8), "PNG", compress_level=3)


def _alpha_png(pixels: Pixels) -> bytes:
    """An oval vignette in the alpha channel."""
    height, width = pixels.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    alpha = np.rint(255 * np.clip(1.6 - x**2 - y**2, 0, 1)).astype(np.uint8)
    return _saved(np.dstack([to_levels(pixels, 8), alpha]), "PNG", compress_level=3)


def _tiff16(pixels: Pixels) -> bytes:
    sink = io.BytesIO()
    tifffile.imwrite(sink, to_levels(pixels, 16), photometric="rgb", compression="zlib", metadata=None, software=False)
    return sink.getvalue()


def _turned(orientation: int) -> Writer:
    """A photograph from a camera held sideways: pixels lie on their side and EXIF says how to turn them."""
    turns = {3: 2, 6: 1, 8: 3}

    def write(pixels: Pixels) -> bytes:
        exif = Image.Exif()
        exif[0x0112] = orientation
        lying = np.ascontiguousarray(np.rot90(to_levels(pixels, 8), turns[orientation]))
        return _saved(lying, "JPEG", quality=92, exif=exif.tobytes())

    return write


def _cmyk_jpeg(pixels: Pixels) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(to_levels(pixels, 8)).convert("CMYK").save(sink, "JPEG", quality=95)
    return sink.getvalue()


AGED = (
    _Aged("1969/training/mild.jpg", "portrait", d.MILD, _jpeg(), RESTORED_OR_LEFT),
    _Aged("1969/training/medium.jpg", "portrait", d.MEDIUM, _jpeg()),
    _Aged("1969/training/severe.jpg", "portrait", d.SEVERE, _jpeg(), RESTORED_OR_LEFT),
    _Aged("1969/training/very severe.jpg", "close", d.VERY_SEVERE, _jpeg(), RESTORED_OR_LEFT),
    _Aged("1969/training/close.png", "close", POOR, _png),
    _Aged("1969/press/pair.jpg", "pair", d.MEDIUM, _jpeg()),
    _Aged("1969/press/poster.webp", "poster", d.MILD.model_copy(update={"noise": 8.0}), _webp, RESTORED_OR_LEFT),
    _Aged("1969/press/clean.png", "portrait", d.Degradation(), _png, RESTORED_OR_LEFT),
    _Aged("prints/hazy.jpg", "portrait", d.MEDIUM.model_copy(update={"haze": 0.6}), _jpeg()),
    _Aged("prints/faded.webp", "mirrored", d.MEDIUM.model_copy(update={"fading": 0.6}), _webp),
    _Aged("prints/colour cast.jpg", "close", d.MEDIUM.model_copy(update={"cast": 0.5}), _jpeg()),
    _Aged("prints/scratched.bmp", "close", d.MEDIUM.model_copy(update={"scratches": 4, "stains": 1}), _bmp),
    _Aged("scans/grey.jpg", "grey", d.MEDIUM, _grey_jpeg),
    _Aged("scans/grey.png", "grey", POOR, _grey_png),
    _Aged("scans/16 bit.tif", "close", d.MEDIUM, _tiff16),
    _Aged("scans/oval.png", "mirrored", d.MEDIUM, _alpha_png),
    _Aged("scans/cmyk.jpg", "portrait", d.MEDIUM, _cmyk_jpeg),
    _Aged("phone/sideways.jpg", "portrait", d.MEDIUM, _turned(6)),
    _Aged("phone/upside down.jpg", "pair", d.MEDIUM, _turned(3)),
    _Aged("phone/really a png.jpg", "mirrored", POOR, _png),
)
"""Files with a face and a known original. Grey writers take the middle channel, CMYK is measured as what it is."""


def _others(archive: Path, aged: Sequence[Expected]) -> list[Expected]:
    """A picture without a face, a duplicate, and files that are broken or no pictures."""
    medium = next(each for each in aged if each.path.endswith("medium.jpg"))
    whole = medium.source.read_bytes()
    coffee = d.degrade(_bundled("coffee.png"), d.MILD, 0)
    contents: dict[str, tuple[bytes, frozenset[str]]] = {
        "no face/coffee.jpg": (_jpeg()(coffee), LEFT_ALONE),
        "no face/cat.png": (_png(_bundled("chelsea.png")), LEFT_ALONE),
        "broken/truncated.jpg": (whole[: len(whole) // 3], QUARANTINED),
        "broken/letter.jpg": (b"Dear Aunt May,\nthe pictures are in the other box.\n", SKIPPED),
        "broken/empty.jpg": (b"", SKIPPED),
    }
    made = [Expected(path, _put(archive / path, data), outcomes) for path, (data, outcomes) in contents.items()]
    copy = Expected("1969/press/copy of medium.jpg", archive / "1969/press/copy of medium.jpg", medium.outcomes)
    _put(copy.source, whole)
    return [*made, copy]


def _put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
