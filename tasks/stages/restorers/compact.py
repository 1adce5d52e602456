"""The small networks of the package as stages: restorer, severe restorer, dehaze, skin tone."""

from __future__ import annotations

from typing import Any

from tasks.stage import StageSettings
from tasks.stages.network import NetworkStage


class CompactRestorer(NetworkStage):
    """The small restorer that this project trains and ships (tasks/models/weights/MODEL_CARD.md)."""

    name = "compact_restorer"
    reads = ("aligned",)
    source = "aligned"

    @classmethod
    def weights_needed(cls, settings: StageSettings) -> tuple[str, ...]:
        """One shipped file."""
        return ("compact_restorer",)

    def build(self) -> Any:
        """The network from its safetensors file."""
        from tasks.models.compact.table import load_compact

        return load_compact(self.weights["compact_restorer"])


class CompactSevere(NetworkStage):
    """The small restorer trained on faces of about 32 pixels; it starts again from the aligned input."""

    name = "compact_severe"
    reads = ("aligned",)
    source = "aligned"

    @classmethod
    def weights_needed(cls, settings: StageSettings) -> tuple[str, ...]:
        """One shipped file."""
        return ("compact_severe",)

    def build(self) -> Any:
        """The network from its safetensors file."""
        from tasks.models.compact.table import load_compact

        return load_compact(self.weights["compact_severe"])


class CompactDehaze(NetworkStage):
    """A small network in FFA-Net's place: a colour matrix for every part of the face, computed at 64 px."""

    name = "compact_dehaze"
    reads = ("restored",)

    @classmethod
    def weights_needed(cls, settings: StageSettings) -> tuple[str, ...]:
        """One shipped file."""
        return ("compact_dehaze",)

    def build(self) -> Any:
        """The network from its safetensors file."""
        from tasks.models.compact.table import load_compact

        return load_compact(self.weights["compact_dehaze"])


class CompactSkinTone(NetworkStage):
    """A small network in FaceToneNet's place: takes colour casts away by gains, and leaves natural light."""

    name = "compact_skin_tone"
    reads = ("restored",)

    @classmethod
    def weights_needed(cls, settings: StageSettings) -> tuple[str, ...]:
        """One shipped file."""
        return ("compact_skin_tone",)

    def build(self) -> Any:
        """The network from its safetensors file."""
        from tasks.models.compact.table import load_compact

        return load_compact(self.weights["compact_skin_tone"])
