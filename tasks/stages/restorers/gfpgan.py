"""The stronger restorer for extremely poor faces: GFPGAN."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tasks.stage import StageSettings
from tasks.stages.network import NetworkSettings, NetworkStage

if TYPE_CHECKING:
    import torch
    from torch import nn


class GfpganSettings(NetworkSettings):
    """The released MPSR uses v1.3."""

    version: Literal["v1.3", "v1.4"] = Field(default="v1.3", description="which released weights")
    backend: Literal["spandrel", "gfpgan"] = Field(
        default="spandrel", description="whose network code; both give the same pixels (`gfpgan` is an extra)"
    )


class Gfpgan(NetworkStage):
    """GFPGAN (Wang et al., CVPR 2021) with the checkpoint's own noise maps, so the same face gives the same result.

    Its modulation breaks in fp16, so it computes in float32 whatever the run's dtype is; and it reshapes its features,
    so that it needs their channels first.
    """

    name = "gfpgan"
    generative = True
    Settings = GfpganSettings
    reads = ("restored",)
    channels_last = False
    parameters_m = 86.4
    working_gb = 0.57
    float32_only = True

    settings: GfpganSettings

    @classmethod
    def weights_needed(cls, settings: StageSettings) -> tuple[str, ...]:
        """The weights of the version."""
        assert isinstance(settings, GfpganSettings)
        return (f"gfpgan_{settings.version.replace('.', '_')}",)

    @classmethod
    def extras_needed(cls, settings: StageSettings) -> tuple[str, ...]:
        """The package `gfpgan`, only where it is asked for."""
        assert isinstance(settings, GfpganSettings)
        return ("gfpgan",) if settings.backend == "gfpgan" else ()

    def build(self) -> nn.Module:
        """The network from the published checkpoint."""
        from infra.weights import fitting, load_state_dict
        from tasks.models.restorers.gfpgan import build_gfpgan

        (path,) = self.weights.values()
        with fitting(path, expect="GFPGAN"):
            return build_gfpgan(load_state_dict(path, expect="GFPGAN"), backend=self.settings.backend)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The result may overshoot [0, 1]; the stages after it get it as it is, as in the released code."""
        from tasks.models.restorers.gfpgan import restore

        return restore(self._network, images)
