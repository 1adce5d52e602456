"""The benchmark's archive: clean aligned faces, degraded in known ways, one folder per way, beside their truths.

The same faces and seed give the same bytes. The default face is one that comes inside an installed package, so that
anyone can repeat the numbers. It knows files and the degradation model, nothing of recipes or metrics.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from importlib.resources import files

import numpy as np
from PIL import Image

from infra.problems import ForPeople
from infra.storage import Storage, encode_name
from tasks.archive import PRESETS, Degradation, degrade
from tasks.faces import geometry
from tasks.pictures import DecodeError, Pixels, decode, to_float, to_levels
from tasks.stages import fitted

ARCHIVE, TRUTH = "archive", "truth"
CELLS: dict[str, Degradation] = {"clean": Degradation(), **PRESETS}
"""name → what is done to the faces; each has a folder of this name."""
SEVERITY = ("clean", "mild", "medium", "severe", "very_severe")
"""The cells that are steps of one ladder; the others stand alone."""
LANDMARKS = np.array([[205.3, 101.3], [248.7, 103.8], [225.4, 129.5], [202.8, 141.8], [242.7, 143.1]])
"""The five points of the portrait in scikit-image (`astronaut.png`: Eileen Collins; NASA, public domain)."""


class NoFaces(ForPeople):
    """A folder holds no picture that a benchmark can use; the message says what was expected."""

    exit_code = 2


def default_faces() -> dict[str, Pixels]:
    """name → (512, 512, 3) float32 RGB. One person, in 170 pixels: enough to repeat numbers, not to choose."""
    portrait = decode((files("skimage.data") / "astronaut.png").read_bytes()).pixels
    face = geometry.crop(portrait, geometry.face_matrix(LANDMARKS))
    return {"collins": face, "collins_mirrored": np.ascontiguousarray(face[:, ::-1])}


def faces_of(folder: Storage, limit: int | None) -> tuple[dict[str, Pixels], dict[str, str]]:
    """The folder's faces by name, each (512, 512, 3), at most `limit` of them; and why others were not taken.

    Pictures must be square crops of one face, aligned as the recipes align. Raises NoFaces.
    """
    found: dict[str, Pixels] = {}
    refused: dict[str, str] = {}
    for path, data in _pictures(folder):
        if limit is not None and len(found) == limit:
            break
        try:
            pixels = decode(data).pixels
        except DecodeError as error:
            refused[path] = str(error)
            continue
        name = path.rpartition(".")[0].replace("/", "_")
        if pixels.shape[0] != pixels.shape[1]:
            refused[path] = f"expected a square crop of a face, came {pixels.shape[1]}×{pixels.shape[0]}"
        elif name in found:
            refused[path] = f"another picture is called {name}, too"
        else:
            found[name] = fitted(pixels)
    if not found:
        raise NoFaces(f"{folder.shown_url} holds no picture of a square aligned face ({len(refused)} files looked at)")
    return found, refused


def write_archive(place: Storage, faces: Mapping[str, Pixels], cells: Mapping[str, Degradation], seed: int) -> None:
    """Writes `archive/<cell>/<face>.png` and `truth/<cell>/<face>.png`; what lies there already is not touched.

    The seed of a picture follows from face, cell and `seed`, so that it stays when other faces come or go.
    """
    wanted = set()
    for name, clean in faces.items():
        truth = _png(clean)
        for cell, degradation in cells.items():
            aged = degrade(to_float(to_levels(clean, 8)), degradation, _seed(name, cell, seed))
            for tree, data in ((TRUTH, truth), (ARCHIVE, truth if cell == "clean" else _png(aged))):
                path = f"{tree}/{cell}/{name}.png"
                wanted.add(path)
                if not (place.exists(path) and place.read_bytes(path) == data):
                    place.write_atomic(path, data)
    for tree in (TRUTH, ARCHIVE):
        for left in {info.path for info in place.walk(tree)} - wanted:
            place.delete(left)


def described(degradation: Degradation) -> str:
    """What a degradation does, as its strengths: `downscale 4, blur sigma 1.5, noise 10, jpeg 50`."""
    strengths = degradation.model_dump(exclude_defaults=True)
    return ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in strengths.items()) or "nothing"


def _pictures(folder: Storage) -> Iterator[tuple[str, bytes]]:
    for info in folder.walk():
        if not info.problem:
            yield encode_name(info.path), folder.read_bytes(info.path)


def _seed(name: str, cell: str, seed: int) -> int:
    return int(hashlib.sha256(f"{name}:{cell}:{seed}".encode()).hexdigest()[:8], 16)


def _png(pixels: Pixels) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(to_levels(pixels, 8)).save(sink, "PNG", compress_level=3)
    return sink.getvalue()
