"""Paste-back: puts restored faces where they came from, and leaves every other pixel what it was.

The default adds the warped change, restored minus aligned, under a soft mask, so that a face that nobody changed
stays bit-equal. Tones (haze, fading, casts) are a matter of the whole picture: it gets what its faces got, or no face
keeps it. Knows pixels and the matrices that detection recorded; files and metadata are `tasks.pictures`'s.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
from pydantic import Field, JsonValue

from tasks.faces import Alignment, ColourMap, geometry, picture_map, seam_of, tone_of
from tasks.pictures import to_levels
from tasks.stage import Batch, Face, FaceResult, ImageResult, ImageStage, Outcome, Pixels, StageSettings
from tasks.stages.detect_align import fitted

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.pictures import Picture

PARSER = "parsenet"
DELIVERED = "delivered"
"""The named image of a face as it lies in the finished picture."""
UNSEEN = 0.5
"""ΔE, on average over a face, below which its own change of tones is no change."""
NEARNESS = 0.15
"""Width of the bell that says how much of a crop is its own face's, in sides of the crop."""


class PasteBackSettings(StageSettings):
    """How faces go back into the picture."""

    mode: Literal["change", "replace"] = Field(
        default="change",
        description="change = add what the restoration changed; replace = put the whole crop there, as facexlib does",
    )
    strength: float = Field(default=1.0, ge=0, le=1, description="share of the change that is applied; 0 = none")
    mask: Literal["oval", "square", "parse"] = Field(
        default="oval",
        description="where a change is applied: oval = the head, fading out; square = the whole crop; parse = what "
        "ParseNet takes for face and hair. With mode = replace all but parse mean facexlib's own soft square",
    )
    feather: float = Field(
        default=0.2, ge=0, le=0.45, description="width of the oval's or square's soft edge, share of the crop's side"
    )
    keep_tone: bool = Field(
        default=True, description="grey and toned faces (sepia) keep their tone: only brightness is restored"
    )
    tone: Literal["picture", "face"] = Field(
        default="picture",
        description="picture = a change of tones (haze, fading, cast) is made to the whole picture, where that bears "
        "the faces out, or not at all; face = every face keeps what its stages made of it, as released",
    )


@dataclass(frozen=True, slots=True)
class Pasted:
    """A face to be pasted: picture → crop, the crop (512, 512, 3) before and after, and its weight (512, 512)."""

    matrix: geometry.Matrix
    before: Pixels
    after: Pixels
    mask: geometry.Mask

    def in_tone(self, tones: ColourMap | None) -> Pasted:
        """The same face with no tones but the picture's: what its own stages did beyond them is taken out."""
        before = self.before if tones is None else tones(self.before)
        own = ColourMap.fitted([(before, self.after)], [self.mask])
        after = self.after if own.size(before) < UNSEEN else own.undone(self.after)
        return Pasted(self.matrix, before, after, self.mask)


class PasteBack(ImageStage):
    """Reads `aligned` and `restored` of every face of a picture and returns the finished picture.

    Of the picture as it was written it gives every face's `delivered` crop.
    """

    name = "paste_back"
    code_version = 3
    Settings = PasteBackSettings
    reads = ("aligned", "restored")
    writes = (DELIVERED,)
    working_gb = 0.44
    float32_only = True

    settings: PasteBackSettings

    @classmethod
    def weights_needed(cls, settings: StageSettings) -> tuple[str, ...]:
        """The face parser's, where it draws the mask."""
        assert isinstance(settings, PasteBackSettings)
        return (PARSER,) if settings.mask == "parse" else ()

    @classmethod
    def parameters(cls, settings: StageSettings) -> float:
        """The face parser's, where it draws the mask."""
        assert isinstance(settings, PasteBackSettings)
        return 21.3 if settings.mask == "parse" else 0.0

    @classmethod
    def batch_size(cls, settings: StageSettings) -> int:
        """Few pictures: one may hold hundreds of faces."""
        return 4

    def load(self, device: str, dtype: str) -> None:
        """The parser decides which pixels change, so it computes in float32 whatever the run's dtype is.

        In a pool without a GPU it computes on the CPU.
        """
        if self.settings.mask == "parse":
            import torch

            self._device = device if torch.cuda.is_available() else "cpu"
            self._parser = load_parser(self.weights[PARSER], self._device)

    def run(self, picture: Picture, batch: Batch) -> ImageResult:
        """The picture with its faces; `nothing_changed` and no picture where not one level of it would change."""
        pairs = [self._wanted(batch, i) for i in range(len(batch))]
        changed = [i for i, (before, after) in enumerate(pairs) if not np.array_equal(before, after)]
        alignments = [Alignment.from_detail(face.detail) for face in batch.faces]
        detail = dict[str, JsonValue]()
        if any(alignment.detector == "none" for alignment in alignments):
            result = _whole(picture, *pairs[0]) if changed else picture
        else:
            faces = [Pasted(alignments[i].matrix, *pairs[i], self._mask(pairs[i][1])) for i in changed]
            result = self._pasted(picture, faces, detail)
        same = _same_levels(picture, result)
        detail["pasted"] = [] if same else [batch.faces[i].face for i in changed]
        if same:
            return ImageResult(Outcome(reason_code="nothing_changed", detail=detail))
        return ImageResult(Outcome(detail=detail), picture=result)

    def delivered(self, picture: Picture, batch: Batch) -> list[FaceResult]:
        """Every face as it lies in the picture that was written, with the seam of its paste (`Seam`)."""
        return [self._delivered(picture, face, batch.images["aligned"][i]) for i, face in enumerate(batch.faces)]

    def _delivered(self, picture: Picture, face: Face, before: Pixels) -> FaceResult:
        alignment = Alignment.from_detail(face.detail)
        if alignment.detector == "none":
            return FaceResult(Outcome(), {DELIVERED: fitted(picture.pixels)})
        after = geometry.crop(picture.pixels, alignment.matrix, antialias=True)
        seam = seam_of(before, after, geometry.oval_mask(feather=self.settings.feather))
        metrics = {"seam_colour": seam.colour, "seam_gradient": seam.gradient}
        return FaceResult(Outcome(metrics=metrics), {DELIVERED: after})

    def _wanted(self, batch: Batch, index: int) -> tuple[Pixels, Pixels]:
        """A face's crop, and what it shall become: in its own tone, as strongly as the settings say."""
        before: Pixels = batch.images["aligned"][index]
        after: Pixels = batch.images["restored"][index]
        if np.array_equal(before, after):
            return before, before
        tone = tone_of(before, geometry.oval_mask() > 0) if self.settings.keep_tone else None
        toned = after if tone is None else tone.follow(before, after)
        if self.settings.strength == 1:
            return before, toned
        return before, np.asarray(before + np.float32(self.settings.strength) * (toned - before), np.float32)

    def _pasted(self, picture: Picture, faces: list[Pasted], detail: dict[str, JsonValue]) -> Picture:
        if not faces:
            return picture
        pixels, settled = picture.pixels.copy(), faces
        if self.settings.tone == "picture":
            tones = picture_map(picture.pixels, [(f.before, f.after) for f in faces], [f.mask for f in faces])
            pixels = pixels if tones is None else tones(pixels)
            settled = [face.in_tone(tones) for face in faces]
            detail["picture_tone"] = None if tones is None else tones.to_json()
        if self.settings.mode == "replace":
            for face in settled:
                parsed = face.mask if self.settings.mask == "parse" else None
                pixels = geometry.paste_replace(pixels, face.after, face.matrix, parsed)
        else:
            shared = shared_masks([face.matrix for face in settled], [face.mask for face in settled])
            for face, mask in zip(settled, shared, strict=True):
                geometry.paste_change(pixels, face.before, face.after, face.matrix, mask, out=pixels)
        return dataclasses.replace(picture, pixels=pixels)

    def _mask(self, restored: Pixels) -> geometry.Mask:
        """The weight (512, 512) of one face's change, before neighbours have their share."""
        if self.settings.mask == "parse":
            return face_mask(self._parser, restored, self._device)
        shapes = {"oval": geometry.oval_mask, "square": geometry.square_mask}
        return shapes[self.settings.mask](feather=self.settings.feather)


def load_parser(path: Path, device: str) -> Any:
    """ParseNet from the published file; its sizes follow from the weights."""
    from infra.weights import fitting, load_state_dict
    from tasks.models.faces.parsenet import build_parsenet
    from tasks.models.tensors import placed

    with fitting(path, expect="ParseNet"):
        return placed(build_parsenet(load_state_dict(path, expect="ParseNet")), device, "float32")


def face_mask(parser: Any, restored: Pixels, device: str) -> geometry.Mask:
    """facexlib's mask (512, 512) of a restored face (512, 512, 3): face and hair, blurred, nothing at the edge."""
    import torch

    from tasks.models.faces.parsenet import parse
    from tasks.models.tensors import to_tensor

    with torch.inference_mode():
        classes = parse(parser, to_tensor(restored[None].clip(0, 1), device))
    return geometry.parse_mask(classes[0].cpu().numpy())


def shared_masks(matrices: list[geometry.Matrix], wholes: list[geometry.Mask]) -> list[geometry.Mask]:
    """The weight (512, 512) of every face's change; where crops overlap the weights add up to no more than one.

    `wholes` are the weights that the faces would have alone. A place belongs mostly to the face whose centre is
    nearest, in sides of its crop; the border between two faces is soft.
    """
    masks = []
    for index, (matrix, whole) in enumerate(zip(matrices, wholes, strict=True)):
        others = [at for at, other in enumerate(matrices) if at != index and _meet(matrix, other)]
        rivals = [_seen_from(matrix, matrices[at], wholes[at] * _nearness()) for at in others]
        own = whole * _nearness()
        masks.append(whole * own / np.maximum(own + sum(rivals), 1e-12) if rivals else whole)
    return masks


@lru_cache(maxsize=1)
def _nearness() -> geometry.Mask:
    """How much each place of a crop is that face's own: a bell around the centre, far below one at the edge."""
    away = (np.arange(geometry.SIDE, dtype=np.float32) + 0.5) / geometry.SIDE - 0.5
    return np.exp(-(away[:, None] ** 2 + away[None] ** 2) / (2 * NEARNESS**2)).astype(np.float32)


def _meet(matrix: geometry.Matrix, other: geometry.Matrix) -> bool:
    """Whether the circles around two crops meet in the picture (crops that only nearly meet count, too)."""
    middle = np.full((1, 2), geometry.SIDE / 2)
    centres = [geometry.transform(middle, geometry.inverse(each))[0] for each in (matrix, other)]
    reach = sum(geometry.SIDE / geometry.scale_of(each) for each in (matrix, other)) / np.sqrt(2)
    return bool(np.hypot(*(centres[0] - centres[1])) < reach)


def _seen_from(matrix: geometry.Matrix, other: geometry.Matrix, weight: geometry.Mask) -> geometry.Mask:
    """Another crop's weight, as it lies in this crop."""
    back = np.vstack([geometry.inverse(other), [0, 0, 1]])
    return np.asarray(cv2.warpAffine(weight, matrix @ back, (geometry.SIDE, geometry.SIDE)), np.float32)


def _whole(picture: Picture, before: Pixels, after: Pixels) -> Picture:
    """The restored face as the picture itself: 512 × 512, alpha resized with it."""
    if (picture.height, picture.width) == before.shape[:2]:
        return dataclasses.replace(picture, pixels=picture.pixels + (after - before))
    alpha = picture.alpha
    if alpha is not None:
        alpha = cv2.resize(alpha, (geometry.SIDE, geometry.SIDE), interpolation=cv2.INTER_LINEAR)
    return dataclasses.replace(picture, pixels=after, alpha=alpha)


def _same_levels(picture: Picture, result: Picture) -> bool:
    """Whether two pictures would be written with the same levels."""
    if picture is result:
        return True
    if picture.pixels.shape != result.pixels.shape:
        return False
    strips = (slice(top, top + 256) for top in range(0, picture.height, 256))
    before, after = picture.pixels, result.pixels
    return all(
        np.array_equal(to_levels(before[rows], picture.depth), to_levels(after[rows], picture.depth)) for rows in strips
    )
