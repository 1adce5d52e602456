"""Dehazing: FFA-Net (Qin et al., AAAI 2020)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tasks.stage import StageSettings
from tasks.stages.network import NetworkSettings, NetworkStage

if TYPE_CHECKING:
    import torch
    from torch import nn


class FfaNetSettings(NetworkSettings):
    """The released MPSR uses the outdoor weights on every face, in full."""

    trained: Literal["outdoor", "indoor"] = Field(default="outdoor", description="which released weights")


class FfaNet(NetworkStage):
    """FFA-Net with 3 groups of 19 blocks. Its pooling sees the whole face, so it computes in float32 and untiled."""

    name = "ffa_net"
    Settings = FfaNetSettings
    reads = ("restored",)
    parameters_m = 4.5
    working_gb = 0.81
    tflop_per_face = 2.3
    float32_only = True

    settings: FfaNetSettings

    @classmethod
    def weights_needed(cls, settings: StageSettings) -> tuple[str, ...]:
        """The outdoor or the indoor file."""
        assert isinstance(settings, FfaNetSettings)
        return ("ffa_net_ots" if settings.trained == "outdoor" else "ffa_net_its",)

    def build(self) -> nn.Module:
        """The network from the published checkpoint; its size follows from the file."""
        from infra.weights import load_into, load_state_dict
        from tasks.models.restorers.ffa_net import FFANet

        (path,) = self.weights.values()
        sizes = _sizes(load_state_dict(path, expect="FFA-Net"))
        return load_into(FFANet(*sizes), path, expect="FFA-Net")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised as the network was trained; clamped, not normalised back."""
        from tasks.models.restorers.ffa_net import dehaze

        return dehaze(self._network, images)


def _sizes(state: Mapping[str, torch.Tensor]) -> tuple[int, int, int]:
    """Groups, blocks per group and width of the network whose weights these are."""
    groups = {key.partition(".")[0] for key in state if re.match(r"g\d+\.", key)}
    layers = {key.split(".")[2] for key in state if key.startswith("g1.gp.")}
    width = state["pre.0.weight"].shape[0] if "pre.0.weight" in state else 64
    return max(len(groups), 1), max(len(layers) - 1, 1), width
