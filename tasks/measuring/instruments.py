"""How a metric is taken of a face: by a formula, or by a network that is loaded when first asked for.

One face at a time, in float32: no number depends on a face's neighbours. The module knows nothing of which metrics
exist, of files' origins or of data sets; `tasks.measuring.metrics` does.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from infra.weights import WeightsError, WeightsMismatch, WeightsMissing
from tasks.faces import adaface_judge, onnx_judge
from tasks.measuring import formulas
from tasks.stage import Pixels

if TYPE_CHECKING:
    from torch import nn

T = TypeVar("T")
Answer = NDArray[np.float32]
Look = Callable[..., Answer]
"""A loaded network: RGB float32 pictures (H, W, 3) in, its answer out. A judge takes crops (N, 112, 112, 3)."""
Load = Callable[[Sequence[Path], str], Look]
"""Makes a network of a metric's files, in the order in which the metric names them, on a device."""


@dataclass(frozen=True, slots=True)
class FacePair:
    """One restored face beside the input it came from, and beside the truth; each where it is known.

    RGB float32 in [0, 1], (H, W, 3), usually 512×512; `points` (5, 2) are the *input's* landmarks (x, y) in the
    512-pixel frame, in the order of tasks.faces.geometry. They are applied to all pictures, scaled to each one's size.
    """

    restored: Pixels
    input: Pixels | None = None
    truth: Pixels | None = None
    points: NDArray[np.float64] | None = None


def _no_network(files: Sequence[Path], device: str) -> Look:
    return lambda *_: np.empty(0, np.float32)


@dataclass(frozen=True, slots=True)
class Instrument:
    """`take` makes the number (for a set's metric: the features) of a face and of the network that `load` makes.

    A formula has none. `take` raises ValueError where a face does not allow it.
    """

    take: Callable[[FacePair, Look], float | Answer]
    load: Load = _no_network


class Networks:
    """The networks that were loaded so far, each once. Several threads may measure at once."""

    def __init__(self, weights: Mapping[str, Path], device: str) -> None:
        """`weights` maps names of infra/weights/weights.toml to files."""
        self._weights, self._device = dict(weights), device
        self._loaded: dict[tuple[Load, tuple[str, ...]], Look | WeightsError] = {}
        self._loading = Lock()

    def look(self, load: Load, weights: tuple[str, ...]) -> Look:
        """The network of these files. Raises WeightsError where they do not hold it: every time, and read only once."""
        with self._loading:
            if (load, weights) not in self._loaded:
                self._loaded[load, weights] = self._load(load, [self._weights[name] for name in weights])
            found = self._loaded[load, weights]
        if isinstance(found, WeightsError):
            raise found
        return found

    def _load(self, load: Load, files: Sequence[Path]) -> Look | WeightsError:
        try:
            return load(files, self._device)
        except WeightsError as error:
            return error
        except (ImportError, FileNotFoundError) as error:
            return WeightsMissing(str(error))
        except (RuntimeError, ValueError, KeyError, UnpicklingError) as error:
            return WeightsMismatch(f"{files[-1]}: expected a metric's network, and the file does not fit it: {error}")


def exact_kernels() -> None:
    """Has every network of this process compute by the same kernels, in whole float32, every time."""
    import torch

    torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32 = True, False


def network(build: Callable[..., nn.Module]) -> Load:
    """A network that takes tensors (1, 3, H, W); `build` makes it of its files, on the CPU."""

    def load(files: Sequence[Path], device: str) -> Look:
        import torch

        from tasks.models.tensors import to_tensor

        net = build(*files).to(device).eval()

        def look(*pictures: Pixels) -> Answer:
            with torch.inference_mode():
                answer: Answer = net(*(to_tensor(picture[None], device) for picture in pictures)).cpu().numpy()
            return answer

        return look

    return load


def scored_by(address: str) -> Instrument:
    """A network that scores the restored face alone; `address` names its builder, "module:function"."""
    module, _, function = address.partition(":")

    def build(*files: Path) -> nn.Module:
        net: nn.Module = getattr(importlib.import_module(module), function)(*files)
        return net

    return Instrument(lambda face, look: _number(look(face.restored.clip(0, 1))), network(build))


def _distance(face: FacePair, look: Look) -> float:
    truth = _truth(face)
    if truth.shape != face.restored.shape:
        raise ValueError(f"expected one size, got {face.restored.shape[:2]} and {truth.shape[:2]}")
    return _number(look(face.restored.clip(0, 1), truth.clip(0, 1)))


def _likeness(face: FacePair, other: Pixels, look: Look) -> float:
    """Cosine of two pictures of a person, both cut out by the input's landmarks."""
    from tasks.faces import recognition_crop

    points = _known(face.points, "the input's landmarks")
    a, b = (look(recognition_crop(picture, points)[None])[0] for picture in (face.restored, other))
    return float(np.dot(a, b))


def _to_input(face: FacePair, look: Look) -> float:
    return _likeness(face, _known(face.input, "the input"), look)


def _to_truth(face: FacePair, look: Look) -> float:
    return _likeness(face, _truth(face), look)


def _truth(face: FacePair) -> Pixels:
    return _known(face.truth, "the truth")


def _known(value: T | None, what: str) -> T:
    if value is None:
        raise ValueError(f"it compares with {what}, and this face has none")
    return value


def _number(answer: Answer) -> float:
    return float(answer.reshape(-1)[0])


def _adaface(files: Sequence[Path], device: str) -> Look:
    return adaface_judge(files[0], device)


def _onnx(files: Sequence[Path], device: str) -> Look:
    return onnx_judge(files[0])


def _lpips(backbone: Path, linear: Path) -> nn.Module:
    """LPIPS of AlexNet's features and the publication's five layers. Raises WeightsError."""
    from infra.weights import fitting, load_state_dict
    from tasks.models.quality.lpips import lpips_for

    alexnet, layers = load_state_dict(backbone, expect="AlexNet"), load_state_dict(linear, expect="LPIPS's layers")
    with fitting(linear, expect="AlexNet's features and LPIPS's five layers"):
        return lpips_for(alexnet, layers)


def _inception(path: Path) -> nn.Module:
    """The network that FID is defined on; it takes pictures in [-1, 1]. Raises WeightsError."""
    from infra.weights import fitting, load_state_dict
    from tasks.models.quality.fid_inception import inception_for

    expect = "InceptionV3 of pytorch-fid"
    with fitting(path, expect=expect):
        return inception_for(load_state_dict(path, expect=expect))


SHARPNESS = Instrument(lambda face, _: formulas.sharpness(face.restored.clip(0, 1)))
DETAIL = Instrument(lambda face, _: formulas.detail(face.restored.clip(0, 1)))
STRUCTURE = Instrument(lambda face, _: formulas.structure(face.restored.clip(0, 1)))
PSNR = Instrument(lambda face, _: formulas.psnr(_truth(face), face.restored.clip(0, 1)))
SSIM = Instrument(lambda face, _: formulas.ssim(_truth(face), face.restored.clip(0, 1)))
LPIPS = Instrument(_distance, network(_lpips))
FEATURES = Instrument(lambda face, look: look(face.restored.clip(0, 1) * 2 - 1)[0], network(_inception))
ADAFACE_TO_INPUT, ADAFACE_TO_TRUTH = Instrument(_to_input, _adaface), Instrument(_to_truth, _adaface)
ONNX_TO_INPUT, ONNX_TO_TRUTH = Instrument(_to_input, _onnx), Instrument(_to_truth, _onnx)
