"""From pixels to tensors and back, and the base of stages that are one network."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from tasks.models.tensors import placed, to_pixels, to_tensor
from tasks.stage import Batch, FaceResult, FaceStage, Outcome, StageSettings

if TYPE_CHECKING:
    import torch
    from torch import nn


class NetworkSettings(StageSettings):
    """What every single-network stage lets people set."""

    strength: float = Field(default=1.0, ge=0.0, le=1.0, description="how much of the change is applied; 0 = none")
    batch_size: int = Field(default=8, ge=1, le=256, description="faces per micro-batch")


class NetworkStage(FaceStage):
    """A stage that sends one named image through one network and writes `restored`.

    Subclasses name the image in `source` and build the network in `build`; the network maps (N, 3, H, W) in
    [0, 1] to the same. `channels_last` says that it computes the same in either memory layout. What `build` loads
    stays in float32 where the subclass is `float32_only`.
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

    def build(self) -> nn.Module:
        """The network in eval mode, on the CPU, in float32."""
        raise NotImplementedError

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """What the network makes of images (N, 3, H, W) in [0, 1]."""
        result: torch.Tensor = self._network(images)
        return result

    def load(self, device: str, dtype: str) -> None:
        """Builds the network where the run computes."""
        self._device, self._dtype = device, "float32" if self.float32_only else dtype
        self._network = placed(self.build(), device, self._dtype, channels_last=self.channels_last)

    def run(self, batch: Batch) -> list[FaceResult]:
        """Every face's `restored`, moved towards the network's answer by `strength`."""
        import torch

        before = batch.images[self.source]
        with torch.inference_mode():
            after = to_pixels(self.forward(to_tensor(before, self._device, self._dtype)))
        if self.settings.strength < 1.0:
            after = before + np.float32(self.settings.strength) * (after - before)
        return [FaceResult(Outcome(), {"restored": image}) for image in after]
