"""GFPGAN (v1.3, v1.4: the "clean" architecture) behind one call that is right for restoration.

Wang et al., "Towards Real-World Blind Face Restoration with Generative Facial Prior" (CVPR 2021), repository
TencentARC/GFPGAN. The network comes from spandrel, or from the authors' own package `gfpgan` where that is
installed; both give the same pixels. The module knows nothing of files, thresholds or faces in pictures.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn

Backend = Literal["spandrel", "gfpgan"]
SIDE = 512


@dataclass(frozen=True)
class GFPGANSizes:
    """What distinguishes networks of the clean architecture; the defaults are the released ones."""

    out_size: int = SIDE
    num_style_feat: int = 512
    num_mlp: int = 8
    narrow: float = 1


RELEASED = GFPGANSizes()


def build_gfpgan(
    weights: Mapping[str, Tensor], *, backend: Backend = "spandrel", sizes: GFPGANSizes = RELEASED
) -> nn.Module:
    """The network in evaluation mode, filled from the `params_ema` of a release (285 tensors at full size).

    Raises RuntimeError when a key is missing, left over or of another shape, ModuleNotFoundError when
    `backend` is not installed, and ValueError for sizes that spandrel does not build.
    """
    if backend == "spandrel":
        if sizes != RELEASED:
            raise ValueError(f"spandrel builds GFPGAN at its released sizes only; got {sizes}: use backend='gfpgan'")
        return _from_spandrel(weights)
    return _from_authors(weights, sizes)


def restore(net: nn.Module, rgb: Tensor) -> Tensor:
    """Restores RGB faces (N, 3, 512, 512) in [0, 1]; the result may overshoot, as in the released MPSR.

    Noise maps are the checkpoint's own, so the same face always gives the same result.
    """
    centred = (rgb * 2 - 1).contiguous(memory_format=torch.contiguous_format)
    restored: Tensor = net(centred, return_rgb=False, randomize_noise=False)[0]
    return restored * 0.5 + 0.5


def _from_spandrel(weights: Mapping[str, Tensor]) -> nn.Module:
    from spandrel.architectures.GFPGAN import GFPGAN

    with torch.device("meta"):  # drawing random weights, to be overwritten at once, would take seconds
        net: nn.Module = GFPGAN()
    net.load_state_dict(dict(weights), strict=True, assign=True)
    return net.float().eval()


def _from_authors(weights: Mapping[str, Tensor], sizes: GFPGANSizes) -> nn.Module:
    _mend_torchvision()
    architecture: Any = importlib.import_module("gfpgan.archs.gfpganv1_clean_arch")
    net: nn.Module = architecture.GFPGANv1Clean(
        channel_multiplier=2, input_is_latent=True, different_w=True, sft_half=True, **asdict(sizes)
    )
    net.load_state_dict(dict(weights), strict=True)
    return net.eval()


def _mend_torchvision() -> None:
    """Gives basicsr the module that it still imports and torchvision dropped in 0.17 (GFPGAN issue 506)."""
    name = "torchvision.transforms.functional_tensor"
    if name in sys.modules:
        return
    from torchvision.transforms.functional import rgb_to_grayscale

    module = ModuleType(name)
    module.rgb_to_grayscale = rgb_to_grayscale  # type: ignore[attr-defined]
    sys.modules[name] = module
