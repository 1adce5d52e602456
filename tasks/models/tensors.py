"""Pixels to tensors and back, and networks onto a device."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from torch import nn

Pixels = NDArray[np.float32]
"""RGB images, shape (N, H, W, 3), float32."""
CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
"""Where torch looks for the folder of what it compiled."""


def to_tensor(pixels: Pixels, device: str = "cpu", dtype: str = "float32") -> torch.Tensor:
    """(N, H, W, 3) float32 in [0, 1] → (N, 3, H, W), contiguous, on the device."""
    import torch

    planes = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    return torch.from_numpy(planes).to(device=device, dtype=getattr(torch, dtype))


def to_pixels(tensor: torch.Tensor) -> Pixels:
    """(N, 3, H, W) → (N, H, W, 3) float32 on the CPU."""
    return np.ascontiguousarray(tensor.detach().float().cpu().numpy().transpose(0, 2, 3, 1))


def placed(network: Any, device: str, dtype: str | None, *, channels_last: bool = True) -> Any:
    """The network in eval mode where the run computes; on a GPU with its channels last, as its convolutions want them.

    `dtype=None` leaves the numbers as they are. `channels_last=False` is for networks that reshape their features and
    so depend on the layout.
    """
    import torch

    network = network.to(device=device, dtype=getattr(torch, dtype) if dtype else None).eval()
    if channels_last and device.startswith("cuda"):
        network = network.to(memory_format=torch.channels_last)
    return network


def compiled(*networks: nn.Module) -> None:
    """Has torch compile the networks, in place, when they are first called, and for every new size of a batch.

    What is compiled is kept in `~/.cache/mpsr/compiled` for the next process, unless the environment names another
    folder.
    """
    os.environ.setdefault(CACHE_VARIABLE, str(Path.home() / ".cache" / "mpsr" / "compiled"))
    for network in networks:
        network.compile()
