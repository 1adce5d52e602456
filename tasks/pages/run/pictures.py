"""Small pictures for the report: before and after at the same size, as JPEGs that fit a number of bytes.

It gets pixels from a callable and gives bytes back; it knows nothing of pages, ledgers or storages.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tasks.pages.run.records import FileRecord
from tasks.pages.shared.records import FaceRecord

PixelLoader = Callable[[Literal["source", "workspace"], str], NDArray[np.uint8]]
"""Gives the upright picture, (H, W), (H, W, 3) or (H, W, 4), at a path (a ledger name) of source or workspace."""

RESTORED = "restored"
"""The workspace's folder that mirrors the source."""

_LADDER = ((1200, 86), (960, 85), (800, 84), (640, 82), (512, 80), (400, 78), (320, 75), (240, 70), (160, 60), (96, 40))
"""Longer side in pixels and JPEG quality, tried from the top until the bytes suffice."""
_FACES_SHOWN = 4
_CROP = 4.2
"""Side of a face's crop in distances from eyes to mouth (FFHQ's crop is 3.9)."""
_SMALL = 0.5
"""A face gets a view of its own where its crop is narrower than this share of the picture's shorter side."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class View:
    """One comparison: the whole picture or a face. `after` is None where nothing was changed; sizes are in pixels."""

    label: str
    width: int
    height: int
    before: bytes
    after: bytes | None


@dataclass(frozen=True, slots=True)
class Pictures:
    """The views of one file, most telling first, or the reason why there are none."""

    views: tuple[View, ...] = ()
    problem: str = ""

    @property
    def size(self) -> int:
        """Bytes of all JPEGs together."""
        return sum(len(v.before) + len(v.after or b"") for v in self.views)


class Album:
    """Makes the views of so many files that all JPEGs together fit a number of bytes.

    What one file does not need of its share goes to the next.
    """

    def __init__(self, load_pixels: PixelLoader, files: int, budget: int) -> None:
        self._load, self._files, self._budget = load_pixels, files, budget

    def pictures(self, record: FileRecord) -> Pictures:
        """Views of the next file."""
        made = self._made(record, self._budget // max(self._files, 1))
        self._files -= 1
        self._budget -= made.size
        return made

    def _made(self, record: FileRecord, share: int) -> Pictures:
        path = record.file.path
        try:
            before = _image(self._load("source", path))
            changed = record.outcome in ("restored", "fallback")
            after = _image(self._load("workspace", f"{RESTORED}/{path}")) if changed else None
            return Pictures(tuple(_views(record, before, after, share)))
        except Exception as error:  # one file that went missing since must not cost the report
            log.warning("no picture of %s in the report: %s", path, error)
            return Pictures(problem=f"{type(error).__name__}: {error}"[:200])


def _image(pixels: NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(pixels)
    if image.mode != "RGBA":
        return image.convert("RGB")
    paper = Image.new("RGB", image.size, (255, 255, 255))
    paper.paste(image, mask=image.getchannel("A"))
    return paper


def _views(record: FileRecord, before: Image.Image, after: Image.Image | None, budget: int) -> Iterator[View]:
    boxes = dict(_face_boxes(record.details, before.size)) if after else {}
    share = budget // (len(boxes) + 2) if boxes else budget
    for label, box in boxes.items():
        if view := _view(label, before, after, box, share):
            yield view
    if view := _view("the whole picture", before, after, (0, 0, *before.size), share if not boxes else 2 * share):
        yield view


def _face_boxes(faces: Sequence[FaceRecord], size: tuple[int, int]) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
    """Crops of the largest faces, where a face is small in its picture; kept inside the picture."""
    boxes = [(face.face, *_crop(face)) for face in faces if face.landmarks]
    small = [box for box in boxes if box[3] < _SMALL * min(size)]
    for number, x, y, side in sorted(small, key=lambda box: -box[3])[:_FACES_SHOWN]:
        left, top = (int(min(max(c - side / 2, 0), edge - side)) for c, edge in zip((x, y), size, strict=True))
        yield f"face {number + 1}", (left, top, left + int(side), top + int(side))


def _crop(face: FaceRecord) -> tuple[float, float, float]:
    """Centre and side of the crop; the points are eyes, nose, corners of the mouth."""
    points = np.array(face.landmarks)
    x, y = points.mean(axis=0)
    tall = float(np.linalg.norm(points[:2].mean(axis=0) - points[3:].mean(axis=0)))
    return float(x), float(y), max(_CROP * tall, 24.0)


def _view(
    label: str, before: Image.Image, after: Image.Image | None, box: tuple[int, int, int, int], budget: int
) -> View | None:
    """The largest pair that fits the budget; None where not even the smallest does."""
    bytes_per_pixel = 0.0
    for side, quality in _LADDER:
        scale = min(1.0, side / max(box[2] - box[0], box[3] - box[1]))
        size = (max(1, round((box[2] - box[0]) * scale)), max(1, round((box[3] - box[1]) * scale)))
        if bytes_per_pixel * size[0] * size[1] > 1.5 * budget:
            continue  # the rungs above have shown that this one cannot fit
        first = _jpeg(before, box, size, quality)
        second = _jpeg(after, _scaled(box, before.size, after.size), size, quality) if after else None
        total = len(first) + len(second or b"")
        if total <= budget:
            return View(label, *size, first, second)
        bytes_per_pixel = total / (size[0] * size[1])
    return None


def _scaled(box: tuple[int, int, int, int], old: tuple[int, int], new: tuple[int, int]) -> tuple[int, int, int, int]:
    x, y = new[0] / old[0], new[1] / old[1]
    return round(box[0] * x), round(box[1] * y), round(box[2] * x), round(box[3] * y)


def _jpeg(image: Image.Image, box: tuple[int, int, int, int], size: tuple[int, int], quality: int) -> bytes:
    small = image.resize(size, Image.Resampling.LANCZOS, box=box)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()
