"""Face geometry: from five landmarks to an aligned crop, and back into the picture.

Template, border and replacement follow xinntao/facexlib (as GFPGAN, CodeFormer and DiffBIR use it); the
recognition alignment follows AdaFace and ArcFace. Points are (x, y) pixels in the order eye on the left of the
image, eye on the right, nose, mouth corner on the left, mouth corner on the right. A matrix (2, 3) maps picture
to crop. The module knows numpy and OpenCV; it knows nothing of detectors, stages or files.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil, floor, hypot
from typing import Any, TypeAlias, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

Points: TypeAlias = NDArray[np.float64]
Matrix: TypeAlias = NDArray[np.float64]
Image: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.float32]
Complex: TypeAlias = NDArray[np.complex128]
Box: TypeAlias = tuple[int, int, int, int]
Levels = TypeVar("Levels", NDArray[np.uint8], NDArray[np.float32])

SIDE = 512
RECOGNITION_SIDE = 112
TEMPLATE: Points = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)
"""Where the five points lie in a 512-pixel crop (FFHQ's alignment, facexlib)."""
RECOGNITION_TEMPLATE: Points = np.array(
    [
        [38.29459953, 51.69630051],
        [73.53179932, 51.50139999],
        [56.02519989, 71.73660278],
        [41.54930115, 92.3655014],
        [70.72990036, 92.20410156],
    ]
)
"""Where they lie in the 112-pixel crop of recognition networks (AdaFace, ArcFace)."""
BORDER = (132 / 255, 133 / 255, 135 / 255)
"""RGB of what lies outside the picture."""
BLACK = (0.0, 0.0, 0.0)
NOT_FACE = (0, 14, 16, 17, 18)
"""ParseNet's classes that are not pasted: background, neck, necklace, cloth, hat."""


class DegenerateLandmarksError(ValueError):
    """The points do not determine a similarity (they coincide, or are not numbers)."""


def face_matrix(landmarks: Points, side: int = SIDE) -> Matrix:
    """Picture → aligned crop. Raises DegenerateLandmarksError."""
    return _median_similarity(landmarks, TEMPLATE * (side / SIDE))


def recognition_matrix(landmarks: Points) -> Matrix:
    """Picture → 112-pixel recognition crop, as AdaFace's protocol has it.

    The fit runs from the template to the picture and is then turned round, so that errors count in picture pixels;
    both sets of points are rounded to float32 before it. Raises DegenerateLandmarksError.
    """
    template, points = (values.astype(np.float32).astype(np.float64) for values in (RECOGNITION_TEMPLATE, landmarks))
    back = least_squares_similarity(template, points)
    if not np.isfinite(back).all() or scale_of(back) == 0:
        raise _degenerate(landmarks)
    return inverse(back)


@lru_cache(maxsize=2)
def aligned_to_recognition(side: int = SIDE) -> Matrix:
    """Aligned face of `side` pixels → 112-pixel recognition crop, as the small judge saw faces when it learnt.

    The template stands there with four digits; another fit would be another picture to the judge.
    """
    matrix = _median_similarity((TEMPLATE + 0.5) * (side / SIDE) - 0.5, RECOGNITION_TEMPLATE.round(4))
    matrix.flags.writeable = False
    return matrix


def recognition_crop(picture: Image, points: Points | None = None) -> Image:
    """The crop that recognition networks look at: (112, 112, 3) float32 RGB in [0, 1], black outside the picture.

    Without `points` the picture is an aligned face (512, 512, 3), smoothed before it is reduced, as the judges of the
    identity stage look at it. With them, (5, 2) in the 512-pixel frame, the picture may have any size and is cut as
    AdaFace's protocol and the challenge have it: from 8-bit levels, without smoothing. Raises
    DegenerateLandmarksError.
    """
    if points is None:
        smoothed: Image = cv2.GaussianBlur(picture, (0, 0), 1.4)  # a reduction by 3.4; without it edges alias
        found: Image = crop(smoothed, aligned_to_recognition(), RECOGNITION_SIDE, border=BLACK).clip(0.0, 1.0)
    else:
        height, width = picture.shape[:2]
        matrix = recognition_matrix(points * (width / SIDE, height / SIDE))
        levels = np.rint(picture.clip(0, 1) * 255).astype(np.uint8)
        found = crop(levels, matrix, RECOGNITION_SIDE, border=BLACK).astype(np.float32) / 255
    return found


def least_squares_similarity(source: Points, target: Points) -> Matrix:
    """The similarity, mirrored where that fits better, with the least squared error; (2, 3).

    Raises DegenerateLandmarksError where all source points coincide.
    """
    before, after = _as_complex(source), _as_complex(target)
    fits = [_complex_fit(before, after), _complex_fit(before.conj(), after)]
    errors = [(np.abs(a * z + b - after) ** 2).sum() for z, (a, b) in zip((before, before.conj()), fits, strict=True)]
    mirrored = bool(errors[1] < errors[0])
    factor, shift = fits[int(mirrored)]
    sign = -1.0 if mirrored else 1.0
    return np.array(
        [
            [factor.real, -sign * factor.imag, shift.real],
            [factor.imag, sign * factor.real, shift.imag],
        ]
    )


def inverse(matrix: Matrix, scale: float = 1.0) -> Matrix:
    """Aligned crop → picture enlarged `scale` times."""
    return np.asarray(cv2.invertAffineTransform(matrix), dtype=np.float64) * scale


def transform(points: Points, matrix: Matrix) -> Points:
    """Points (N, 2) through a matrix (2, 3)."""
    mapped: Points = points @ matrix[:, :2].T + matrix[:, 2]
    return mapped


def scale_of(matrix: Matrix) -> float:
    """Crop pixels per picture pixel."""
    return hypot(matrix[0, 0], matrix[1, 0])


def crop(
    image: Levels,
    matrix: Matrix,
    side: int = SIDE,
    *,
    border: tuple[float, float, float] = BORDER,
    antialias: bool = False,
) -> Levels:
    """The aligned crop (side, side, 3) of a picture (H, W, 3), linear, `border` where the picture ends.

    `border` has the picture's channel order and range. facexlib does not smooth before it reduces; with `antialias`
    a face larger than the crop is smoothed first, so that hair and fabric do not turn into patterns.
    """
    if antialias and scale_of(matrix) < 1:
        image, matrix = _smoothed_part(image, matrix, side)
    warped: Levels = cv2.warpAffine(image, matrix, (side, side), borderMode=cv2.BORDER_CONSTANT, borderValue=border)
    return warped


@lru_cache(maxsize=32)
def square_mask(side: int = SIDE, margin: float = 0.02, feather: float = 0.1) -> Mask:
    """A crop's weight (side, side): 0 within `margin` of the edge, 1 beyond `margin + feather`; shares of the side."""
    distance = np.minimum(np.arange(side), np.arange(side)[::-1]) / side
    ramp = np.clip((distance - margin) / max(feather, 1 / side), 0, 1)
    smooth = ramp * ramp * (3 - 2 * ramp)
    mask: Mask = np.outer(smooth, smooth).astype(np.float32)
    mask.flags.writeable = False
    return mask


@lru_cache(maxsize=8)
def oval_mask(side: int = SIDE, feather: float = 0.2) -> Mask:
    """A head's weight in a crop (side, side): 0 beyond the oval that fits the crop, 1 from `feather` inside it on.

    `feather` is a share of the side. A tone that is mended fades into the picture instead of ending in a box.
    """
    across, down = np.meshgrid(*[(np.arange(side) + 0.5) / side] * 2)
    radius = np.hypot((across - 0.5) / 0.46, (down - 0.52) / 0.46)
    ramp = np.clip((1 - radius) * 0.46 / max(feather, 1 / side), 0, 1)
    mask: Mask = (ramp * ramp * (3 - 2 * ramp)).astype(np.float32)
    mask.flags.writeable = False
    return mask


def parse_mask(classes: NDArray[np.integer[Any]]) -> Mask:
    """A crop's weight (512, 512) from ParseNet's class of each pixel: the face, blurred, and nothing at the edge."""
    face = np.where(np.isin(classes, NOT_FACE), 0, 255).astype(np.float32)
    for _ in range(2):
        face = cv2.GaussianBlur(face, (101, 101), 11)
    inside = np.zeros_like(face)
    inside[10:-10, 10:-10] = face[10:-10, 10:-10] / 255
    return inside


def paste_change(
    image: Image, before: Image, after: Image, matrix: Matrix, mask: Mask | None = None, out: Image | None = None
) -> Image:
    """The picture (H, W, 3) with the crop's change, after minus before, added where it came from.

    Weighted by `mask` (`square_mask()` unless given). Where nothing changed, every pixel stays what it was, to the
    bit. `matrix` is the one that made the crop. With `out=image` the picture itself is changed; otherwise a copy.
    """
    result = image.copy() if out is None else out
    back = inverse(matrix)
    box = _bounding_box(back, len(before), image.shape, margin=2)
    if _is_empty(box):
        return result
    weight = square_mask(len(before)) if mask is None else mask
    change = _smooth((after - before) * weight[..., None], scale_of(back))
    left, top, right, bottom = box
    result[_window(box)] += cv2.warpAffine(change, _shifted(back, box), (right - left, bottom - top))
    return result


def paste_replace(image: Levels, face: Levels, matrix: Matrix, mask: Mask | None = None, scale: int = 1) -> Levels:
    """The picture, enlarged `scale` times, with the crop put in place of what was there, exactly as facexlib does.

    A square with soft edges, or `mask` (see `parse_mask`). 8-bit pictures are truncated, as there.
    """
    enlarged = image if scale == 1 else _enlarge(image, scale)
    back = inverse(matrix, scale)
    if scale > 1:
        back[:, 2] += 0.5 * scale
    box = _bounding_box(back, len(face), enlarged.shape, margin=2 * scale + 1)
    if _is_empty(box):
        return enlarged.copy()
    left, top, right, bottom = box
    size = (right - left, bottom - top)
    shifted = _shifted(back, box)
    pasted = cv2.warpAffine(face, shifted, size)
    if mask is None:
        sharp, soft = _square_masks(shifted, len(face), size, scale)
        pasted = sharp[..., None] * pasted
    else:
        soft = cv2.warpAffine(mask, shifted, size)
    result = enlarged.copy()
    blended = soft[..., None] * pasted + (1 - soft[..., None]) * enlarged[_window(box)]
    result[_window(box)] = blended.astype(image.dtype)
    return result


def _median_similarity(source: Points, target: Points) -> Matrix:
    """The similarity that fits the median point best: one wrong landmark does not matter."""
    matrix = None
    if np.isfinite(source).all():
        matrix, _ = cv2.estimateAffinePartial2D(source, target, method=cv2.LMEDS)
    if matrix is None or not np.isfinite(matrix).all() or scale_of(matrix) == 0:
        raise _degenerate(source)
    return np.asarray(matrix, dtype=np.float64)


def _degenerate(landmarks: Points) -> DegenerateLandmarksError:
    return DegenerateLandmarksError(f"expected five distinct points, got {np.round(landmarks, 1).tolist()}")


def _square_masks(back: Matrix, side: int, size: tuple[int, int], scale: int) -> tuple[Mask, Mask]:
    """The square as it lies in the picture, and the same drawn in and blurred in proportion to its area."""
    whole = cv2.warpAffine(np.ones((side, side), np.float32), back, size)
    sharp: Mask = cv2.erode(whole, np.ones((2 * scale, 2 * scale), np.uint8))
    edge = int(float(sharp.sum()) ** 0.5) // 20
    drawn_in = cv2.erode(sharp, np.ones((2 * edge, 2 * edge), np.uint8)) if edge else sharp
    return sharp, cv2.GaussianBlur(drawn_in, (2 * edge + 1, 2 * edge + 1), 0)


def _enlarge(image: Levels, scale: int) -> Levels:
    height, width = image.shape[:2]
    enlarged: Levels = cv2.resize(image, (width * scale, height * scale), interpolation=cv2.INTER_LANCZOS4)
    return enlarged


def _as_complex(points: Points) -> Complex:
    return np.asarray(points[:, 0] + 1j * points[:, 1], dtype=np.complex128)


def _complex_fit(before: Complex, after: Complex) -> tuple[complex, complex]:
    """Factor and shift of the least-squares similarity between points as complex numbers."""
    centred = before - before.mean()
    spread = float((np.abs(centred) ** 2).sum())
    if not spread > 0:
        raise DegenerateLandmarksError("expected distinct points, got points that coincide")
    factor = complex((centred.conj() * (after - after.mean())).sum() / spread)
    return factor, complex(after.mean()) - factor * complex(before.mean())


def _bounding_box(back: Matrix, side: int, shape: tuple[int, ...], margin: int) -> Box:
    """Left, top, right, bottom of the crop's square within a picture; empty where they do not meet."""
    corners = transform(np.array([[0, 0], [side, 0], [0, side], [side, side]], np.float64), back)
    left, top = (max(0, floor(value) - margin) for value in corners.min(axis=0))
    right, bottom = (
        min(limit, ceil(value) + margin) for limit, value in zip((shape[1], shape[0]), corners.max(axis=0), strict=True)
    )
    return left, top, right, bottom


def _is_empty(box: Box) -> bool:
    left, top, right, bottom = box
    return left >= right or top >= bottom


def _window(box: Box) -> tuple[slice, slice]:
    left, top, right, bottom = box
    return slice(top, bottom), slice(left, right)


def _shifted(back: Matrix, box: Box) -> Matrix:
    """Crop → picture becomes crop → box."""
    moved = back.copy()
    moved[:, 2] -= box[:2]
    return moved


def _smoothed_part(image: Levels, matrix: Matrix, side: int) -> tuple[Levels, Matrix]:
    """The part of a picture that a crop shows, smoothed for its reduction, and the matrix from that part."""
    box = _bounding_box(inverse(matrix), side, image.shape, margin=ceil(2 / scale_of(matrix)))
    if _is_empty(box):
        return image, matrix
    moved = matrix.copy()
    moved[:, 2] += matrix[:, :2] @ np.array(box[:2], np.float64)
    return _smooth(image[_window(box)], scale_of(matrix)), moved


def _smooth(image: Levels, scale: float) -> Levels:
    """Removes what a reduction to `scale` could not show; nothing where the scale is 1 or more."""
    if scale >= 1:
        return image
    smoothed: Levels = cv2.GaussianBlur(image, (0, 0), 0.35 / scale)
    return smoothed
