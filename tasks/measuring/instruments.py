"""How each metric of a face is taken: networks, loaded when first asked for, and formulas.

One face at a time, in float32, by the same kernels every time: no number depends on a face's neighbours. The module
knows nothing of which metrics exist, of files' origins or of data sets; `tasks.metrics` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.weights import WeightsError, WeightsMismatch, WeightsMissing
from tasks.faces import ADAFACE, ONNX, adaface_judge, onnx_judge
from tasks.stage import Pixels
from tasks.stages import sharpness

INCEPTION = "fid_inception"
LPIPS = ("lpips_alexnet", "lpips_alex")
FRAME = 512
JUDGES = {
    "identity": ADAFACE,
    "identity_truth": ADAFACE,
    "identity_onnx": ONNX,
    "identity_truth_onnx": ONNX,
}


@dataclass(frozen=True)
class FacePair:
    """One restored face beside the input it came from, and beside the truth where that is known.

    RGB float32 in [0, 1], (H, W, 3), usually 512×512; `points` (5, 2) are the *input's* landmarks (x, y) in the
    512-pixel frame, in the order of tasks.geometry. They are applied to all pictures, scaled to each one's size.
    """

    restored: Pixels
    input: Pixels
    truth: Pixels | None
    points: NDArray[np.float64]


class Instruments:
    """The networks that a meter has loaded so far. Several threads may measure at once."""

    def __init__(self, weights: Mapping[str, Path], device: str) -> None:
        """`weights` maps names of infra/weights.toml to files."""
        self._weights, self._device = dict(weights), device
        self._loaded: dict[str, Any] = {}
        self._loading = Lock()

    def take(self, name: str, face: FacePair) -> float:
        """One metric of one face. Raises ValueError where this face does not allow it."""
        if name == "sharpness":
            return sharpness(face.restored.clip(0, 1))
        if name in ("psnr", "ssim"):
            return _formula(name, face)
        if name == "lpips":
            return self._distance(face)
        if name in JUDGES:
            return self._similarity(JUDGES[name], face, _truth(face) if "truth" in name else face.input)
        return self._scalar(self._network(name)(self._tensor(face.restored)))

    def inception_features(self, restored: Pixels) -> NDArray[np.float32]:
        """Pooled features (2048,) of the network that FID is defined on."""
        found: NDArray[np.float32] = self._network(INCEPTION)(self._tensor(restored) * 2 - 1)[0].cpu().numpy()
        return found

    def _distance(self, face: FacePair) -> float:
        truth = _truth(face)
        if truth.shape != face.restored.shape:
            raise ValueError(f"expected one size, got {face.restored.shape[:2]} and {truth.shape[:2]}")
        return self._scalar(self._network("lpips")(self._tensor(face.restored), self._tensor(truth)))

    def _similarity(self, judge: str, face: FacePair, other: Pixels) -> float:
        """Cosine of two pictures of a person, both cut out by the input's landmarks."""
        look = self._network(judge)
        a, b = (look(recognition_crop(picture, face.points)[None])[0] for picture in (face.restored, other))
        return float(np.dot(a, b))

    def _scalar(self, answer: Any) -> float:
        return float(answer.reshape(-1)[0])

    def _tensor(self, pixels: Pixels) -> Any:
        from tasks.models.tensors import to_tensor

        return to_tensor(pixels[None].clip(0, 1), self._device)

    def _network(self, name: str) -> Any:
        """Raises ValueError where its files do not hold it: every time, and read only once."""
        with self._loading:
            if name not in self._loaded:
                self._loaded[name] = self._load(name)
        if isinstance(self._loaded[name], WeightsError):
            raise ValueError(str(self._loaded[name]))
        return self._loaded[name]

    def _load(self, name: str) -> Any:
        import torch

        torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32 = True, False
        try:
            network = _build(name, self._weights, self._device)
        except WeightsError as error:
            return error
        return network if name in (ADAFACE, ONNX) else torch.inference_mode()(network.to(self._device).eval())


def recognition_crop(picture: Pixels, points: NDArray[np.float64]) -> Pixels:
    """The 112-pixel crop of AdaFace's protocol, RGB float32 (112, 112, 3); `points` are in the 512-pixel frame.

    It is cut from 8-bit levels, black outside, without smoothing, as the challenge does. Raises ValueError for points
    that do not determine a crop.
    """
    from tasks.faces import RECOGNITION_SIDE, crop, recognition_matrix

    height, width = picture.shape[:2]
    matrix = recognition_matrix(points * (width / FRAME, height / FRAME))
    levels = np.rint(picture.clip(0, 1) * 255).astype(np.uint8)
    found: Pixels = crop(levels, matrix, RECOGNITION_SIDE, border=(0, 0, 0)).astype(np.float32) / 255
    return found


def _formula(name: str, face: FacePair) -> float:
    from tasks.measuring.formulas import psnr, ssim

    return (psnr if name == "psnr" else ssim)(_truth(face), face.restored.clip(0, 1))


def _truth(face: FacePair) -> Pixels:
    if face.truth is None:
        raise ValueError("it compares with the truth, and this face has none")
    return face.truth


def _build(name: str, weights: Mapping[str, Path], device: str) -> Any:
    """A judge on the device, or any other network on the CPU. Raises WeightsError."""
    if name == ADAFACE:
        return adaface_judge(weights[name], device)
    if name == ONNX:
        return onnx_judge(weights[name])
    if name == INCEPTION:
        return _inception(weights[name])
    if name == "lpips":
        return _lpips(*(weights[file] for file in LPIPS))
    if name == "quality":
        from tasks.models.compact.table import load_compact

        return load_compact(weights["compact_quality"])
    return _score(name, weights)


def _score(name: str, weights: Mapping[str, Path]) -> Any:
    from tasks.models.quality import iqa

    files = [weights[file] for file in iqa.METRICS[name].files]
    try:
        return iqa.load(name, *files)
    except iqa.IQAUnavailableError as error:
        raise WeightsMissing(str(error)) from error
    except (RuntimeError, KeyError, UnpicklingError) as error:
        raise WeightsMismatch(f"{files[-1]}: expected the network of {name}, and the file does not fit it") from error


def _inception(path: Path) -> Any:
    from infra.weights import fitting, load_state_dict
    from tasks.models.quality.fid_inception import inception_for

    expect = "InceptionV3 of pytorch-fid"
    with fitting(path, expect=expect):
        return inception_for(load_state_dict(path, expect=expect))


def _lpips(backbone: Path, linear: Path) -> Any:
    from infra.weights import fitting, load_state_dict
    from tasks.models.quality.lpips import lpips_for

    alexnet, layers = load_state_dict(backbone, expect="AlexNet"), load_state_dict(linear, expect="LPIPS's layers")
    with fitting(linear, expect="AlexNet's features and LPIPS's five layers"):
        return lpips_for(alexnet, layers)
