"""Dehazing: FFA-Net (Qin et al., AAAI 2020), and a small network of the same class in the compact recipe."""

from __future__ import annotations

from typing import Any

from tasks.stage import StageSettings
from tasks.tensors import NetworkStage


class CompactDehaze(NetworkStage):
    """A small FFA-Net whose correction is computed at low resolution and enlarged."""

    name = "compact_dehaze"
    reads = ("restored",)

    @classmethod
    def weights_needed(cls, settings: StageSettings) -> tuple[str, ...]:
        """One shipped file."""
        return ("compact_dehaze",)

    def build(self) -> Any:
        """The network from its safetensors file."""
        from tasks.models.compact import load_compact

        return load_compact(self.weights["compact_dehaze"])
