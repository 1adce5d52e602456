"""From pixels to tensors and back, and the base of stages that are one network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from tasks.stage import Batch, FaceResult, FaceStage, Outcome, Pixels, StageSettings

if TYPE_CHECKING:
    import torch
    from torch import nn

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


def placed(network: Any, device: str, dtype: str, *, channels_last: bool = True) -> Any:
    """The network in eval mode where the run computes; on a GPU with its channels last, as its convolutions want them.

    `channels_last=False` is for networks that reshape their features and so depend on the layout.
    """
    import torch

    network = network.to(device=device, dtype=getattr(torch, dtype)).eval()
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


class NetworkSettings(StageSettings):
    """What every single-network stage lets people set."""

    strength: float = Field(default=1.0, ge=0.0, le=1.0, description="how much of the change is applied; 0 = none")
    batch_size: int = Field(default=8, ge=1, le=256, description="faces per micro-batch")


class NetworkStage(FaceStage):
    """A stage that sends one named image through one network and writes `restored`.

    Subclasses name the image in `source` and build the network in `build`; the network maps (N, 3, H, W) in
    [0, 1] to the same. `channels_last` says that it computes the same in either memory layout.
    """

    on_device = True
    Settings = NetworkSettings
    writes = ("restored",)
    source = "restored"
    channels_last: ClassVar[bool] = True

    settings: NetworkSettings

    @classmethod
    def batch_size(cls, settings: StageSettings) -> int:
        """Faces per micro-batch, from the settings."""
        assert isinstance(settings, NetworkSettings)
        return settings.batch_size

    def build(self) -> Any:
        """The network in eval mode, on the CPU, in float32."""
        raise NotImplementedError

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """What the network makes of images (N, 3, H, W) in [0, 1]."""
        result: torch.Tensor = self._network(images)
        return result

    def load(self, device: str, dtype: str) -> None:
        """Builds the network where the run computes."""
        self._device, self._dtype = device, dtype
        self._network = placed(self.build(), device, dtype, channels_last=self.channels_last)

    def run(self, batch: Batch) -> list[FaceResult]:
        """Every face's `restored`, moved towards the network's answer by `strength`."""
        import torch

        before = batch.images[self.source]
        with torch.inference_mode():
            after = to_pixels(self.forward(to_tensor(before, self._device, self._dtype)))
        if self.settings.strength < 1.0:
            after = before + np.float32(self.settings.strength) * (after - before)
        return [FaceResult(Outcome(), {"restored": image}) for image in after]
