"""Pictures of an evaluation's page: per face one JPEG with square panels side by side (input, restored, truth).

Side by side, so that both halves of a comparison arrive together and ten thousand faces are ten thousand files. A
file's name follows from what it shows: a page that is written again makes only what is new. The module gets pixels
from callables and knows nothing of ledgers, workspaces or pages.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tasks.pages.evaluation.restoring import Key
from tasks.pages.evaluation.sheet import EvaluatedFace, Sheet
from tasks.pages.shared.shell import PICTURES, Site

PICTURED, ENLARGED, STAGED = 20_000, 1_500, 300
"""Faces with a small view, with a large one, with a strip of stages: those most worth showing."""
SMALL, LARGE, STRIP = 208, 512, 160
"""Sides of a panel in pixels; 208 and 160 are multiples of JPEG's 16-pixel blocks, so that panels do not bleed."""
_QUALITY = {SMALL: 80, LARGE: 88, STRIP: 80}
_MAT = (132, 133, 135)

Side = Literal["restored", "input", "truth"]
Levels = NDArray[np.uint8]
PixelLoader = Callable[[Side, str], Levels]
"""Gives the upright picture (H, W, 3) at a path (as evaluation.parquet spells it) of one of the trees."""
StageLoader = Callable[[str, Key], "Levels | None"]
"""Gives the image that a stage left in an intermediate (workspace path) for a face; None where it is gone."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Shown:
    """What there is to see of a face: names of the panels, whether there is a large view, the strip's stages."""

    name: str
    panels: tuple[str, ...] = ()
    large: bool = False
    stages: tuple[str, ...] = ()
    strip: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Album:
    """Makes the pictures of a sheet's faces beside the page, as far as an earlier page has not left them there."""

    site: Site
    load: PixelLoader
    load_stage: StageLoader

    def make(self, sheet: Sheet) -> dict[int, Shown]:
        """Face's place → what there is to see of it, for the faces that the page has pictures of."""
        rank = {int(place): n for n, place in enumerate(sheet.need[:PICTURED])}
        places = np.array(sorted(rank), np.intp)
        faces = {
            place: face for place, face in zip(places.tolist(), sheet.faces(places), strict=True) if not face.problem
        }
        ranks = [rank[place] for place in faces]
        with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as pool:
            shown = pool.map(partial(self._one, sheet), faces, faces.values(), ranks)
            return dict(zip(faces, shown, strict=True))

    def _one(self, sheet: Sheet, place: int, face: EvaluatedFace, rank: int) -> Shown:
        cut = hashlib.sha256(repr(face.matrix).encode()).hexdigest()[:8]  # another detector cuts other faces
        name = f"{face.pair_id[:2]}/{face.pair_id[2:26]}-{face.face}-{cut}"
        paths: dict[Side, str | None] = {"input": face.input_path, "restored": face.path, "truth": face.truth_path}
        sides = {side: path for side, path in paths.items() if path}
        try:
            self._panels(name, sides, face, large=rank < ENLARGED)
        except Exception as error:  # one file that went missing since must not cost the report
            log.warning("no picture of %s in the report: %s", face.path, error)
            return Shown(name, problem=f"{type(error).__name__}: {error}"[:200])
        stages, strip = self._strip(name, sheet, place) if rank < STAGED else ((), "")
        return Shown(name, tuple(sides), rank < ENLARGED, stages, strip)

    def _panels(self, name: str, sides: Mapping[Side, str], face: EvaluatedFace, *, large: bool) -> None:
        wanted = {f"{PICTURES}/{name}.jpg": SMALL} | ({f"{PICTURES}/{name}-large.jpg": LARGE} if large else {})
        missing = {file: side for file, side in wanted.items() if not self.site.keep(file)}
        if missing:
            squares = [_square(self.load(side, path), face.matrix) for side, path in sides.items()]
            for file, side in missing.items():
                self.site.write(file, _side_by_side(squares, side))

    def _strip(self, name: str, sheet: Sheet, place: int) -> tuple[tuple[str, ...], str]:
        """Labels and name of the strip; nothing where an intermediate is gone and the strip was not made before."""
        key = sheet.keys[place]
        written = sheet.restoring.written.get(key, ()) if key and sheet.restoring else ()
        if not key or not written:
            return (), ""
        stages = tuple(stage for stage, _ in written)
        strip = f"{name}-{hashlib.sha256(repr(written).encode()).hexdigest()[:12]}.jpg"
        if self.site.keep(f"{PICTURES}/{strip}"):
            return stages, strip
        images = [self.load_stage(uri, key) for _, uri in written]
        squares = [_square(image, None) for image in images if image is not None]
        if len(squares) < len(written):
            return (), ""
        self.site.write(f"{PICTURES}/{strip}", _side_by_side(squares, STRIP))
        return stages, strip


def _square(pixels: Levels, matrix: Sequence[float] | None) -> Image.Image:
    """The crop that was measured; without a matrix the whole picture, on a mat where it is not square."""
    if matrix is not None:
        from tasks.faces import geometry

        warp = np.array(matrix, np.float64).reshape(2, 3)
        return Image.fromarray(geometry.crop(pixels, warp, LARGE, border=_MAT, antialias=True))
    image = Image.fromarray(pixels)
    image.thumbnail((LARGE, LARGE), Image.Resampling.LANCZOS)
    if image.width == image.height:
        return image
    side = max(image.size)
    mat = Image.new("RGB", (side, side), _MAT)
    mat.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return mat


def _side_by_side(squares: Sequence[Image.Image], side: int) -> bytes:
    row = Image.new("RGB", (side * len(squares), side))
    for n, square in enumerate(squares):
        near = square.reduce(square.width // side) if square.width >= 2 * side else square
        row.paste(near.resize((side, side), Image.Resampling.LANCZOS), (n * side, 0))
    buffer = io.BytesIO()
    row.save(buffer, "JPEG", quality=_QUALITY[side])
    return buffer.getvalue()
