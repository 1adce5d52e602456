"""SwinIR: the restorer that DiffBIR begins with, alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tasks.stage import StageSettings
from tasks.stages.network import NetworkSettings, NetworkStage

if TYPE_CHECKING:
    import torch
    from torch import nn


class SwinIrSettings(NetworkSettings):
    """DiffBIR's own first stage; the released MPSR uses PiSA-SR in its place."""

    trained: Literal["face", "general", "realesrgan"] = Field(default="face", description="which released weights")


class SwinIr(NetworkStage):
    """DiffBIR's cleaner (SwinIR on 8×-unshuffled pixels) on the newest result, for its own two-stage use.

    In float32: it is small, and the condition of everything after it.
    """

    name = "swinir"
    Settings = SwinIrSettings
    reads = ("restored",)
    parameters_m = 15.8
    working_gb = 0.3  # a guess
    tflop_per_face = 0.18
    float32_only = True

    settings: SwinIrSettings

    @classmethod
    def weights_needed(cls, settings: StageSettings) -> tuple[str, ...]:
        """The weights of the training asked for."""
        assert isinstance(settings, SwinIrSettings)
        return (f"swinir_{settings.trained}",)

    def build(self) -> nn.Module:
        """The network from the published checkpoint; its size follows from the file."""
        from infra.weights import fitting, load_state_dict
        from tasks.models.restorers.swinir import build_swinir

        (path,) = self.weights.values()
        with fitting(path, expect="SwinIR"):
            return build_swinir(load_state_dict(path, expect="SwinIR"))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Sides are multiples of 64 already."""
        from tasks.models.restorers.swinir import clean

        return clean(self._network, images)
