"""Skin tone: the pix2pix UNet of team MiPortrait, and a narrow one of the same class in the compact recipe."""

from __future__ import annotations

from typing import Any

from tasks.stage import StageSettings
from tasks.tensors import NetworkStage


class CompactSkinTone(NetworkStage):
    """A narrow FaceToneNet trained to take colour casts away and nothing else."""

    name = "compact_skin_tone"
    reads = ("restored",)

    @classmethod
    def weights_needed(cls, settings: StageSettings) -> tuple[str, ...]:
        """One shipped file."""
        return ("compact_skin_tone",)

    def build(self) -> Any:
        """The network from its safetensors file."""
        from tasks.models.compact import load_compact

        return load_compact(self.weights["compact_skin_tone"])
