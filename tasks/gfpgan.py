"""The stronger restorer for extremely poor faces: GFPGAN, and its small stand-in of the compact recipe."""

from __future__ import annotations

from typing import Any

from tasks.stage import StageSettings
from tasks.tensors import NetworkStage


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
        from tasks.models.compact import load_compact

        return load_compact(self.weights["compact_severe"])
