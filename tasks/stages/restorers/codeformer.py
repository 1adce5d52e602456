"""CodeFormer: a restorer with a knob between its own idea of a face and the input's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from tasks.stage import StageSettings
from tasks.stages.network import NetworkSettings, NetworkStage

if TYPE_CHECKING:
    import torch
    from torch import nn

WEIGHTS = "codeformer"


class CodeFormerSettings(NetworkSettings):
    """The defaults are those of the authors' command line and of the challenge's baseline."""

    fidelity: float = Field(
        default=0.5, ge=0.0, le=1.0, description="0 = the most detail, 1 = closest to the input (the authors' w)"
    )
    adain: bool = Field(default=True, description="give what is looked up the statistics of the input's features")


class CodeFormer(NetworkStage):
    """CodeFormer (Zhou et al., NeurIPS 2022) on the newest result.

    In float32 and with channels first wherever it runs: other rounding would make it look up other codes, that is,
    paint other details.
    """

    name = "codeformer"
    Settings = CodeFormerSettings
    reads = ("restored",)
    channels_last = False
    parameters_m = 94.1
    working_gb = 0.57
    tflop_per_face = 0.81
    float32_only = True
    generative = True

    settings: CodeFormerSettings

    @classmethod
    def weights_needed(cls, settings: StageSettings) -> tuple[str, ...]:
        """The one release."""
        return (WEIGHTS,)

    def build(self) -> nn.Module:
        """The network from the published checkpoint; its size follows from the file."""
        from infra.weights import fitting, load_state_dict
        from tasks.models.restorers.codeformer import build_codeformer

        path = self.weights[WEIGHTS]
        with fitting(path, expect="CodeFormer"):
            return build_codeformer(load_state_dict(path, expect="CodeFormer"))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Whole levels of 8 bits; a grey face stays grey."""
        from tasks.models.restorers.codeformer import restore

        return restore(self._network, images, self.settings.fidelity, adain=self.settings.adain)
