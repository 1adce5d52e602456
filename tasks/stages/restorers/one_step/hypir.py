"""HYPIR: a restorer of whole photographs in one step, here on faces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from tasks.stage import StageSettings
from tasks.stages.restorers.one_step.stage import BASE, ColourFix, OneStepSettings, OneStepStage

if TYPE_CHECKING:
    import torch

    from tasks.models.one_step.one_step import OneStep

LORA = "hypir_sd2"


class HypirSettings(OneStepSettings):
    """Colours as in the released code."""

    colour_fix: ColourFix = Field(default="wavelet", description="how the result gets the input's colours back")


class Hypir(OneStepStage):
    """HYPIR on Stable Diffusion 2.1 base (Lin et al., 2025), asked with no words."""

    name = "hypir"
    Settings = HypirSettings
    parameters_m = 949.6
    tflop_per_face = 4.44
    clamps_first = False

    @classmethod
    def weights_needed(cls, settings: StageSettings) -> tuple[str, ...]:
        """Stable Diffusion 2.1 base and the LoRA."""
        return BASE, LORA

    def build(self, dtype: torch.dtype) -> OneStep:
        """The text encoder serves for the one prompt and is dropped."""
        from infra.weights import fitting, load_state_dict
        from tasks.models.one_step.hypir import load_hypir
        from tasks.stages.restorers.sd_files import read_base

        base, lora = self.weights[BASE], self.weights[LORA]
        expect = "Stable Diffusion 2.1 base and HYPIR's LoRA (….lora_A.default.weight of every adapted module)"
        weights = read_base(base), load_state_dict(lora, expect=expect)
        with fitting(base, lora, expect=expect):
            return load_hypir(*weights, dtype=dtype)
