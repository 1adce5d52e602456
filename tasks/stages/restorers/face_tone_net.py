"""Skin tone: the pix2pix UNet of team MiPortrait."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.stage import StageSettings
from tasks.stages.network import NetworkStage

if TYPE_CHECKING:
    import torch
    from torch import nn


class FaceToneNet(NetworkStage):
    """The released skin-tone UNet on the whole frame; its instance statistics want float32 and whole faces."""

    name = "face_tone_net"
    reads = ("restored",)
    parameters_m = 39.2
    working_gb = 0.18
    tflop_per_face = 0.09
    float32_only = True

    @classmethod
    def weights_needed(cls, settings: StageSettings) -> tuple[str, ...]:
        """The team's file."""
        return ("face_tone_net",)

    def build(self) -> nn.Module:
        """The network from the published checkpoint; its width follows from the file."""
        from infra.weights import load_into, load_state_dict
        from tasks.models.restorers.face_tone_net import FaceToneNet as Network

        path = self.weights["face_tone_net"]
        first = load_state_dict(path, expect="FaceToneNet").get("model.model.0.weight")
        return load_into(Network(width=64 if first is None else first.shape[0]), path, expect="FaceToneNet")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Half the network's answer, half its input, as released."""
        from tasks.models.restorers.face_tone_net import tone

        return tone(self._network, images)
