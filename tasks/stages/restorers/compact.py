"""The small networks of the package as stages: restorer, severe restorer, dehaze, skin tone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.stage import StageSettings
from tasks.stages.network import NetworkStage

if TYPE_CHECKING:
    from torch import nn


class CompactStage(NetworkStage):
    """One of the small networks that this project trains and ships; stage and weights have one name.

    Three million parameters are a hundredth of a GB: they are not counted.
    """

    parameters_m = 0.0
    working_gb = 0.1

    @classmethod
    def weights_needed(cls, settings: StageSettings) -> tuple[str, ...]:
        """One shipped file (tasks/models/weights/MODEL_CARD.md)."""
        return (cls.name,)

    def build(self) -> nn.Module:
        """The network from its safetensors file."""
        from tasks.models.compact.table import load_compact

        return load_compact(self.weights[self.name])


class CompactRestorer(CompactStage):
    """The small restorer."""

    name = "compact_restorer"
    reads = ("aligned",)
    source = "aligned"


class CompactSevere(CompactStage):
    """The small restorer trained on faces of about 32 pixels; it starts again from the aligned input."""

    name = "compact_severe"
    reads = ("aligned",)
    source = "aligned"


class CompactDehaze(CompactStage):
    """A small network in FFA-Net's place: a colour matrix for every part of the face, computed at 64 px."""

    name = "compact_dehaze"
    reads = ("restored",)


class CompactSkinTone(CompactStage):
    """A small network in FaceToneNet's place: takes colour casts away by gains, and leaves natural light."""

    name = "compact_skin_tone"
    reads = ("restored",)
