"""The first restorer: PiSA-SR where its weights are, a small feed-forward network in the compact recipe."""

from __future__ import annotations

from typing import Any

from tasks.stage import StageSettings
from tasks.tensors import NetworkStage


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
        from tasks.models.compact import load_compact

        return load_compact(self.weights["compact_restorer"])
