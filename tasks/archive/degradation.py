"""The project's one degradation model: what age, cameras and scanners do to a picture, with known strengths.

The order follows the life of a photograph: the scene (haze), the print (fading, colour cast, stains,
scratches), the camera or scanner (blur, reduction, noise), the file (JPEG), and enlargement back to the
size it came in. This is the classical model of GFPGAN (Wang et al. 2021) and BSRGAN; `then` repeats it,
which gives the second order of Real-ESRGAN (Wang et al. 2021).
It knows numpy and OpenCV; it knows nothing of faces, networks or files.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

Image: TypeAlias = NDArray[np.float32]
Interpolation: TypeAlias = Literal["nearest", "linear", "cubic", "area", "lanczos"]

INTERPOLATIONS: dict[Interpolation, int] = {
    "nearest": cv2.INTER_NEAREST,
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
    "lanczos": cv2.INTER_LANCZOS4,
}
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


class Degradation(BaseModel):
    """Strengths of one degradation. The defaults do nothing. Lengths are in pixels of the given image."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    haze: float = Field(default=0.0, ge=0, le=1, description="share of the light lost where the haze is thickest")
    haze_light: float = Field(default=0.85, ge=0.4, le=1, description="brightness of the haze itself")
    fading: float = Field(default=0.0, ge=0, le=1, description="loss of contrast and dyes; 1 leaves a quarter")
    cast: float = Field(default=0.0, ge=0, le=1, description="strength of the colour cast; 1 = gains of 1 ± 0.5")
    cast_hue: float = Field(default=40.0, ge=0, le=360, description="hue of the cast, degrees")
    stains: int = Field(default=0, ge=0, le=20, description="number of stains")
    scratches: int = Field(default=0, ge=0, le=40, description="number of scratches")
    grey: bool = Field(default=False, description="colours lost altogether")
    blur_sigma: float = Field(default=0.0, ge=0, le=15, description="Gaussian sigma along the longer axis, px")
    blur_aspect: float = Field(default=1.0, ge=0.1, le=1, description="shorter over longer axis; 1 = isotropic")
    blur_angle: float = Field(default=0.0, ge=-180, le=180, description="direction of the longer axis, degrees")
    motion: float = Field(default=0.0, ge=0, le=60, description="length of the motion blur, px")
    motion_angle: float = Field(default=0.0, ge=-180, le=180, description="direction of the motion, degrees")
    downscale: float = Field(default=1.0, ge=1, le=16, description="factor of reduction")
    down_interpolation: Interpolation = Field(default="area", description="interpolation of the reduction")
    up_interpolation: Interpolation = Field(default="cubic", description="interpolation of the enlargement")
    noise: float = Field(default=0.0, ge=0, le=60, description="Gaussian noise sigma, 8-bit levels, at reduced size")
    poisson: float = Field(default=0.0, ge=0, le=4, description="shot noise: sigma at white = poisson × 5 levels")
    grey_noise: bool = Field(default=False, description="the same noise in the three channels")
    jpeg: int | None = Field(default=None, ge=10, le=95, description="JPEG quality; none = not compressed")
    then: Degradation | None = Field(default=None, description="a second degradation of the result")


MILD = Degradation(downscale=2, blur_sigma=0.5, noise=5, jpeg=75)
MEDIUM = Degradation(downscale=4, blur_sigma=1.5, noise=10, jpeg=50)
SEVERE = Degradation(downscale=8, blur_sigma=3, noise=20, jpeg=30)
VERY_SEVERE = Degradation(downscale=16, blur_sigma=4, noise=20, jpeg=30)
HAZE = Degradation(haze=0.6)
FADING = Degradation(fading=0.6)
COLOUR_CAST = Degradation(cast=0.5)
PRESETS: dict[str, Degradation] = {
    "mild": MILD,
    "medium": MEDIUM,
    "severe": SEVERE,
    "very_severe": VERY_SEVERE,
    "haze": HAZE,
    "fading": FADING,
    "colour_cast": COLOUR_CAST,
}


def degrade(image: Image, degradation: Degradation, seed: int) -> Image:
    """Degrade an H×W×3 float32 RGB image in [0, 1]; the result has the same shape, type and range.

    The same image, degradation and seed give the same bytes.
    Raises ValueError when the image is not H×W×3 float32.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.float32:
        raise ValueError(
            f"degrade expects an H×W×3 float32 RGB image in [0, 1]; got {image.shape} {image.dtype}; "
            "convert 8-bit pictures with (x / 255).astype(numpy.float32)"
        )
    rng = np.random.default_rng(seed)
    result = image
    step: Degradation | None = degradation
    while step is not None:
        result = _once(result, step, rng)
        step = step.then
    return np.ascontiguousarray(result, np.float32)


def _once(image: Image, d: Degradation, rng: np.random.Generator) -> Image:
    image = _print_ageing(_haze(image, d, rng), d, rng)
    image = _blur(image, d)
    size = image.shape[1], image.shape[0]
    small = _reduce(image, d)
    small = _jpeg(_noise(small, d, rng), d.jpeg)
    if small.shape == image.shape:
        return small
    return _clip(cv2.resize(small, size, interpolation=INTERPOLATIONS[d.up_interpolation]))


def _clip(image: NDArray[np.floating]) -> Image:
    return np.asarray(np.clip(image, 0, 1), np.float32)


def _smooth_field(shape: tuple[int, ...], rng: np.random.Generator, cells: int = 4) -> Image:
    """A smooth random field in [0, 1], H×W×1, that stands for depth or for the density of a stain."""
    coarse = rng.random((cells, cells)).astype(np.float32)
    field = cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    low, high = float(field.min()), float(field.max())
    return np.asarray((field - low) / max(high - low, 1e-6), np.float32)[..., None]


def _haze(image: Image, d: Degradation, rng: np.random.Generator) -> Image:
    """Atmospheric scattering, I = J t + A (1 − t) (Koschmieder), with t from a depth-like field."""
    if d.haze == 0:
        return image
    density = d.haze * (0.6 + 0.4 * _smooth_field(image.shape, rng))
    return _clip(image * (1 - density) + np.float32(d.haze_light) * density)


def _print_ageing(image: Image, d: Degradation, rng: np.random.Generator) -> Image:
    if d.fading > 0:
        image = _fade(image, d.fading)
    if d.cast > 0:
        image = _clip(image * _cast_gains(d))
    if d.grey:
        image = np.repeat((image @ LUMA)[..., None], 3, axis=2)
    if d.stains:
        image = _stain(image, d.stains, rng)
    if d.scratches:
        image = _scratch(image, d.scratches, rng)
    return image


def _fade(image: Image, strength: float) -> Image:
    """Dyes bleach: contrast shrinks towards a light paper tone, and colours shrink towards grey."""
    luma = (image @ LUMA)[..., None]
    pale = luma + (image - luma) * (1 - 0.6 * strength)
    paper = np.array([0.88, 0.84, 0.76], np.float32)
    keep = 1 - 0.75 * strength
    return _clip(paper * (1 - keep) * 0.85 + pale * keep)


def _cast_gains(d: Degradation) -> Image:
    hue = np.deg2rad(d.cast_hue - np.array([0, 120, 240]))
    return np.asarray(1 + 0.5 * d.cast * np.cos(hue), np.float32)


def _stain(image: Image, count: int, rng: np.random.Generator) -> Image:
    height, width = image.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    image = image.copy()
    for _ in range(count):
        radius = rng.uniform(0.03, 0.12) * min(height, width)
        cy, cx = rng.uniform(0, height), rng.uniform(0, width)
        inside = 0.5 - 0.5 * np.tanh((np.hypot(y - cy, x - cx) - radius) / (0.24 * radius + 1e-6))
        tone = rng.uniform(0.3, 0.9) * np.array([1, 0.85, 0.6], np.float32)
        density = (inside * rng.uniform(0.15, 0.5))[..., None].astype(np.float32)
        image = image * (1 - density) + tone * density
    return _clip(image)


def _scratch(image: Image, count: int, rng: np.random.Generator) -> Image:
    height, width = image.shape[:2]
    mask = np.zeros((height, width), np.float32)
    for _ in range(count):
        start = rng.uniform(0, 1, 2) * (width, height)
        angle, length = rng.uniform(0, np.pi), rng.uniform(0.1, 0.8) * max(height, width)
        bend = rng.normal(0, 0.02, (6, 2)) * length
        along = np.linspace(0, length, 6)[:, None] * np.array([np.cos(angle), np.sin(angle)])
        line = np.round((start + along + bend) * 8).astype(np.int32)
        thickness = max(1, round(min(height, width) / 400))
        cv2.polylines(mask, [line], False, rng.uniform(0.4, 0.9), thickness, cv2.LINE_AA, 3)
    tone = np.float32(rng.choice([0.08, 0.95]))
    return _clip(image * (1 - mask[..., None]) + tone * mask[..., None])


def _blur(image: Image, d: Degradation) -> Image:
    if d.blur_sigma > 0:
        if d.blur_aspect == 1:
            image = cv2.GaussianBlur(image, (0, 0), d.blur_sigma, borderType=cv2.BORDER_REFLECT_101)
        else:
            image = _filter(image, _gaussian_kernel(d.blur_sigma, d.blur_aspect, d.blur_angle))
    if d.motion > 1:
        image = _filter(image, _motion_kernel(d.motion, d.motion_angle))
    return image


def _filter(image: Image, kernel: Image) -> Image:
    return np.asarray(cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101), np.float32)


def _gaussian_kernel(sigma: float, aspect: float, angle: float) -> Image:
    radius = max(1, int(np.ceil(3 * sigma)))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float64)
    turn = np.deg2rad(angle)
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    kernel = np.exp(-0.5 * ((along / sigma) ** 2 + (across / (sigma * aspect)) ** 2))
    return np.asarray(kernel / kernel.sum(), np.float32)


def _motion_kernel(length: float, angle: float) -> Image:
    radius = int(np.ceil(length / 2)) + 1
    kernel = np.zeros((2 * radius + 1, 2 * radius + 1), np.float32)
    half = np.array([np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))]) * length / 2
    ends = [tuple(np.round((radius + sign * half) * 16).astype(int).tolist()) for sign in (-1, 1)]
    cv2.line(kernel, ends[0], ends[1], 1.0, 1, cv2.LINE_AA, 4)
    return np.asarray(kernel / kernel.sum(), np.float32)


def _reduce(image: Image, d: Degradation) -> Image:
    if d.downscale == 1:
        return image
    width = max(1, round(image.shape[1] / d.downscale))
    height = max(1, round(image.shape[0] / d.downscale))
    return _clip(cv2.resize(image, (width, height), interpolation=INTERPOLATIONS[d.down_interpolation]))


def _noise(image: Image, d: Degradation, rng: np.random.Generator) -> Image:
    if d.noise == 0 and d.poisson == 0:
        return image
    shape = (*image.shape[:2], 1) if d.grey_noise else image.shape
    sigma = np.sqrt((d.noise / 255) ** 2 + np.maximum(image, 0) * (d.poisson * 5 / 255) ** 2)
    return _clip(image + sigma * rng.standard_normal(shape, np.float32))


def _jpeg(image: Image, quality: int | None) -> Image:
    if quality is None:
        return image
    levels = np.round(_clip(image) * 255).astype(np.uint8)
    written, coded = cv2.imencode(".jpg", levels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not written:
        raise ValueError(f"OpenCV could not write a {image.shape[1]}×{image.shape[0]} picture as JPEG")
    decoded = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))
    return np.asarray(decoded[..., ::-1] / np.float32(255), np.float32)


def sample_degradation(seed: int, severity: float | None = None, ageing: float = 0.3) -> Degradation:
    """Draw a degradation; the same arguments give the same one.

    severity: 0 (hardly any) to 1 (faces of some 32 px, noisy, JPEG 30); none draws it evenly.
    ageing: probability of each of haze, fading and colour cast being there, 0 to 1.
    Ranges after GFPGAN and Real-ESRGAN; three in ten are of second order.
    """
    rng = np.random.default_rng(seed)
    level = float(rng.uniform() if severity is None else severity)
    strengths = _sample_age(rng, ageing) | _sample_camera(rng, level)
    if rng.random() < 0.3:
        strengths["then"] = Degradation.model_validate(_sample_camera(rng, level * 0.4))
    return Degradation.model_validate(strengths)


def _sample_age(rng: np.random.Generator, probability: float) -> dict[str, object]:
    chosen = rng.random(6) < probability * np.array([1, 1, 1, 0.3, 0.3, 0.3])
    drawn: dict[str, object] = {
        "haze": float(rng.uniform(0.1, 0.75)),
        "fading": float(rng.uniform(0.1, 0.8)),
        "cast": float(rng.uniform(0.1, 0.7)),
        "stains": int(rng.integers(1, 5)),
        "scratches": int(rng.integers(1, 12)),
        "grey": True,
    }
    kept = {name: value for (name, value), keep in zip(drawn.items(), chosen, strict=True) if keep}
    return kept | {"haze_light": float(rng.uniform(0.7, 0.98)), "cast_hue": float(rng.uniform(0, 360))}


def _sample_camera(rng: np.random.Generator, level: float) -> dict[str, object]:
    jitter = rng.uniform(0.6, 1.4, 3)
    motion = rng.random() < 0.15
    reduction = ("area", "linear", "cubic", "nearest")
    return {
        "blur_sigma": float(np.clip((0.3 + 4.0 * level) * jitter[0], 0, 8)),
        "blur_aspect": float(rng.choice([1.0, rng.uniform(0.3, 1.0)])),
        "blur_angle": float(rng.uniform(-180, 180)),
        "motion": float(rng.uniform(2, 4 + 14 * level)) if motion else 0.0,
        "motion_angle": float(rng.uniform(-180, 180)),
        "downscale": float(np.clip(16**level * jitter[1], 1, 16)),
        "down_interpolation": str(rng.choice(reduction, p=[0.4, 0.3, 0.25, 0.05])),
        "up_interpolation": str(rng.choice(["cubic", "linear", "lanczos"], p=[0.6, 0.3, 0.1])),
        "noise": float(np.clip(20 * level * jitter[2] * 1.1, 0, 40)),
        "poisson": float(rng.uniform(0, 2 * level)) if rng.random() < 0.3 else 0.0,
        "grey_noise": bool(rng.random() < 0.2),
        "jpeg": None if rng.random() < 0.1 else int(np.clip(rng.normal(90 - 60 * level, 10), 20, 95)),
    }
