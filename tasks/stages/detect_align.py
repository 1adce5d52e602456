"""Detection and alignment: finds the faces of a picture and brings each to the 512-pixel template.

Three detectors give the same record: YuNet (small, ONNX), the compact one that the project ships, and RetinaFace.
`none` takes the picture itself for an aligned face. Alignment itself is `tasks.faces.geometry`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, JsonValue

from tasks.faces import Alignment, Found, YuNet, geometry
from tasks.stage import Batch, Detail, FaceResult, ImageResult, ImageStage, Outcome, Pixels, StageSettings

if TYPE_CHECKING:
    from tasks.pictures import Picture

DetectorName = Literal["auto", "compact", "yunet", "retinaface", "none"]
Detector = Callable[[NDArray[np.uint8]], list[Found]]

WEIGHTS: dict[str, tuple[str, ...]] = {
    "auto": ("compact_landmarks",),
    "compact": ("compact_landmarks",),
    "yunet": ("yunet",),
    "retinaface": ("retinaface_resnet50",),
    "none": (),
}
CONFIDENCE = {"compact": 0.95, "yunet": 0.6, "retinaface": 0.97}
"""Least confidence of each detector where the settings name none: its authors' or measured here."""
WARP_LIMIT = 32_000
"""OpenCV cannot warp from pictures with sides of 32,768 and more; larger ones are cut first."""


class DetectAlignSettings(StageSettings):
    """Which faces are found, and how they are brought to the template."""

    detector: DetectorName = Field(
        default="auto",
        description="what finds faces; auto = yunet where its weights are present, else compact; "
        "none = every picture is an aligned face already",
    )
    confidence: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="least confidence of a face; none = 0.95 (compact), 0.6 (yunet), 0.97 (retinaface)",
    )
    working_side: int = Field(
        default=1536, ge=320, le=8192, description="longest side, px, at which yunet and retinaface look for faces"
    )
    min_face_px: int = Field(
        default=20, ge=4, le=4096, description="longer side of a face's box, px, below which it is left"
    )
    min_eye_px: float = Field(
        default=4.0, ge=0, le=1024, description="distance of the eyes, px, below which a face is left (profiles)"
    )
    max_faces: int = Field(default=256, ge=1, le=10_000, description="faces per picture; the largest are taken")
    antialias: bool = Field(
        default=True, description="smooth faces larger than 512 px before they are reduced (facexlib does not)"
    )


@dataclass(frozen=True, slots=True)
class Detection:
    """What is said of a picture as a whole: its size in pixels, and what became of the faces that were seen.

    `found` is None where no detector looked; `too_small` were left for their size, `left_out` beyond `max_faces` or for
    want of an alignment.
    """

    detector: str
    size: tuple[int, int]
    notes: tuple[str, ...]
    found: int | None = None
    too_small: int = 0
    left_out: int = 0

    def to_detail(self) -> Detail:
        """For the ledger."""
        said: dict[str, JsonValue] = {"detector": self.detector, "size": list(self.size), "notes": list(self.notes)}
        counts = {"found": self.found, "too_small": self.too_small, "left_out": self.left_out}
        return said if self.found is None else said | counts


class DetectAlign(ImageStage):
    """Writes `aligned` (512, 512, 3) for every face, and where it lies: box, points, matrix (picture → crop)."""

    name = "detect_align"
    code_version = 3
    Settings = DetectAlignSettings
    writes = ("aligned",)
    working_gb = 0.1
    float32_only = True

    settings: DetectAlignSettings

    @classmethod
    def weights_needed(cls, settings: StageSettings) -> tuple[str, ...]:
        """Those of the detector asked for; `auto` can always fall back on the compact one."""
        assert isinstance(settings, DetectAlignSettings)
        return WEIGHTS[settings.detector]

    @classmethod
    def weights_optional(cls, settings: StageSettings) -> tuple[str, ...]:
        """YuNet, where the detector is `auto`."""
        assert isinstance(settings, DetectAlignSettings)
        return ("yunet",) if settings.detector == "auto" else ()

    @classmethod
    def parameters(cls, settings: StageSettings) -> float:
        """RetinaFace's; the other detectors compute on the CPU."""
        assert isinstance(settings, DetectAlignSettings)
        return 27.3 if settings.detector == "retinaface" else 0.0

    @classmethod
    def provides(cls, settings: StageSettings) -> tuple[str, ...]:
        """Longer side of the face's box in the picture, px, and the detector's confidence."""
        return ("face_px", "confidence")

    @classmethod
    def batch_size(cls, settings: StageSettings) -> int:
        """Few pictures: one may hold hundreds of faces."""
        return 4

    @property
    def detector(self) -> str:
        """The detector in use; says which one `auto` stands for."""
        if self.settings.detector != "auto":
            return self.settings.detector
        return "yunet" if "yunet" in self.weights else "compact"

    def load(self, device: str, dtype: str) -> None:
        """Detection decides which faces exist, so it runs in float32 whatever the run's dtype is."""
        confidence = (
            CONFIDENCE.get(self.detector, 0.0) if self.settings.confidence is None else self.settings.confidence
        )
        makers: dict[str, Callable[[float, str], Detector]] = {
            "compact": self._compact,
            "yunet": self._yunet,
            "retinaface": self._retinaface,
        }
        self._find = makers[self.detector](confidence, device) if self.detector in makers else None

    def run(self, picture: Picture, batch: Batch) -> ImageResult:
        """The faces of a picture, the largest first. `no_face`, `face_too_small` and `too_small` are outcomes."""
        size = picture.width, picture.height
        said = Detection(self.detector, size, picture.notes)
        if self._find is None:
            resized = f"{picture.width}×{picture.height} brought to {geometry.SIDE}×{geometry.SIDE}"
            if size != (geometry.SIDE, geometry.SIDE):
                said = replace(said, notes=(*picture.notes, resized))
            return _result([_whole(picture)], "ok", said)
        if min(picture.width, picture.height) < self.settings.min_face_px:
            return _result([], "too_small", said)
        found = self._find(np.rint(picture.pixels * 255).astype(np.uint8))
        kept = sorted((f for f in found if self._large_enough(f)), key=lambda f: (-f.side, f.box))
        faces = [aligned for face in kept[: self.settings.max_faces] if (aligned := self._align(picture, face))]
        said = replace(said, found=len(found), too_small=len(found) - len(kept), left_out=len(kept) - len(faces))
        return _result(faces, "ok" if faces else "face_too_small" if found else "no_face", said)

    def _large_enough(self, face: Found) -> bool:
        eyes = float(np.hypot(*(face.points[1] - face.points[0])))
        return face.side >= self.settings.min_face_px and eyes >= self.settings.min_eye_px

    def _align(self, picture: Picture, face: Found) -> FaceResult | None:
        """The aligned face; None where its landmarks determine no alignment."""
        try:
            matrix = geometry.face_matrix(face.points)
        except geometry.DegenerateLandmarksError:
            return None
        pixels, near = _near(picture.pixels, face, matrix)
        crop = geometry.crop(pixels, near, antialias=self.settings.antialias)
        return _face_result(Alignment(self.detector, face.box, face.points, matrix), face.confidence, crop)

    def _yunet(self, confidence: float, device: str) -> Detector:
        return YuNet(self.weights["yunet"], confidence, self.settings.working_side).faces

    def _compact(self, confidence: float, device: str) -> Detector:
        from tasks.faces import detect_faces
        from tasks.models.compact.table import load_compact

        network = load_compact(self.weights["compact_landmarks"])

        def find(rgb: NDArray[np.uint8]) -> list[Found]:
            faces = detect_faces(rgb, network, confidence)
            return [Found((face.x, face.y, face.w, face.h), face.points, face.score) for face in faces]

        return find

    def _retinaface(self, confidence: float, device: str) -> Detector:
        from infra.weights import load_into
        from tasks.models.faces.retinaface import RetinaFace

        file = self.weights["retinaface_resnet50"]
        network = load_into(RetinaFace("resnet50"), file, expect="RetinaFace on ResNet-50").to(device).eval()
        return lambda rgb: _retinaface_faces(rgb, network, device, confidence, self.settings.working_side)


def _retinaface_faces(
    rgb: NDArray[np.uint8], network: Any, device: str, confidence: float, working_side: int
) -> list[Found]:
    import torch

    from tasks.models.faces.retinaface import detect

    scale = min(1.0, working_side / max(rgb.shape[:2]))
    size = (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale)))
    bgr = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)[..., ::-1]
    planes = torch.from_numpy(np.ascontiguousarray(bgr.transpose(2, 0, 1))).to(device).float()[None]
    with torch.inference_mode():
        rows = detect(network, planes, confidence)[0].double().cpu().numpy()
    rows[:, [0, 1, 2, 3, *range(5, 15)]] /= scale
    return [Found((*r[:2], *(r[2:4] - r[:2])), r[5:].reshape(5, 2), float(r[4])) for r in rows]


def _whole(picture: Picture) -> FaceResult:
    """A picture that is an aligned face: brought to 512 × 512 where it has another size."""
    across, down = geometry.SIDE / picture.width, geometry.SIDE / picture.height
    matrix = np.array([[across, 0, (across - 1) / 2], [0, down, (down - 1) / 2]])
    points = geometry.transform(geometry.TEMPLATE, geometry.inverse(matrix))
    box = (0.0, 0.0, float(picture.width), float(picture.height))
    return _face_result(Alignment("none", box, points, matrix), 1.0, fitted(picture.pixels))


def fitted(pixels: Pixels) -> Pixels:
    """Pixels (H, W, 3) resized to (512, 512, 3): cubic, or by areas where both sides shrink."""
    if pixels.shape[:2] == (geometry.SIDE, geometry.SIDE):
        return pixels
    method = cv2.INTER_AREA if min(pixels.shape[:2]) >= geometry.SIDE else cv2.INTER_CUBIC
    resized = cv2.resize(pixels, (geometry.SIDE, geometry.SIDE), interpolation=method)
    return np.asarray(np.clip(resized, 0, 1), np.float32)


def _near(pixels: Pixels, face: Found, matrix: geometry.Matrix) -> tuple[Pixels, geometry.Matrix]:
    """The picture and the matrix, or the part around the face and the matrix from there where it is too large."""
    if max(pixels.shape[:2]) < WARP_LIMIT:
        return pixels, matrix
    reach = 3 * face.side
    left, top = (max(0, int(at - reach)) for at in face.box[:2])
    part = pixels[top : int(face.box[1] + face.side + reach), left : int(face.box[0] + face.side + reach)]
    moved = matrix.copy()
    moved[:, 2] += matrix[:, :2] @ np.array([left, top])
    return part, moved


def _face_result(alignment: Alignment, confidence: float, crop: Pixels) -> FaceResult:
    metrics = {"face_px": max(alignment.box[2:]), "confidence": float(confidence)}
    return FaceResult(Outcome(metrics=metrics, detail=alignment.to_detail()), {"aligned": crop})


def _result(faces: list[FaceResult], reason_code: str, said: Detection) -> ImageResult:
    outcome = Outcome(reason_code=reason_code, metrics={"faces": len(faces)}, detail=said.to_detail())
    return ImageResult(outcome, faces)
