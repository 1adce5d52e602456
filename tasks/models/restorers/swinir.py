"""SwinIR as DiffBIR's first stage uses it: a same-size cleaner that unshuffles its input eightfold.

Liang et al., "SwinIR: Image Restoration Using Swin Transformer" (ICCV workshops 2021); weights from
XPixelGroup/DiffBIR. The network comes from spandrel. The module knows nothing of files or devices.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.functional import pad

SIDE_MULTIPLE = 64


def build_swinir(weights: Mapping[str, Tensor]) -> nn.Module:
    """The network in evaluation mode (else DropPath would stay on); sizes are read off the weights.

    Raises ValueError when the keys are not SwinIR's, RuntimeError when one is missing, left over or of
    another shape.
    """
    from spandrel.architectures.SwinIR import SwinIRArch

    architecture = SwinIRArch()
    if not architecture.detect(weights):
        raise ValueError(f"expected the keys of a SwinIR, found {sorted(weights)[:3]} and {len(weights)} in all")
    net: nn.Module = architecture.load(dict(weights)).model
    return net.eval()


def clean(net: nn.Module, rgb: Tensor) -> Tensor:
    """Cleans RGB (N, 3, H, W) in [0, 1], any size (zero-padded to a multiple of 64); not clamped."""
    height, width = rgb.shape[-2:]
    padded = pad(rgb, (0, -width % SIDE_MULTIPLE, 0, -height % SIDE_MULTIPLE))
    cleaned: Tensor = net(padded)
    return cleaned[..., :height, :width]
