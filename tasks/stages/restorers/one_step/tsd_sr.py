"""TSD-SR: super-resolution in one step of Stable Diffusion 3, the second stage of team AIIA."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from tasks.stage import StageSettings
from tasks.stages.restorers.one_step.stage import ColourFix, OneStepSettings, OneStepStage

if TYPE_CHECKING:
    import torch

    from tasks.models.one_step.one_step import OneStep

BASE, CHANGES, PROMPTS = (
    "sd3_medium",
    ("tsd_sr_transformer", "tsd_sr_vae"),
    ("tsd_sr_prompt", "tsd_sr_pooled"),
)


class TsdSrSettings(OneStepSettings):
    """Colours as in the released code."""

    colour_fix: ColourFix = Field(default="wavelet", description="how the result gets the input's colours back")


class TsdSr(OneStepStage):
    """TSD-SR (Dong et al., CVPR 2025) on Stable Diffusion 3 medium."""

    name = "tsd_sr"
    Settings = TsdSrSettings
    parameters_m = 2112.1
    tflop_per_face = 5.7

    @classmethod
    def weights_needed(cls, settings: StageSettings) -> tuple[str, ...]:
        """Stable Diffusion 3, two LoRAs and two prompts."""
        return BASE, *CHANGES, *PROMPTS

    def build(self, dtype: torch.dtype) -> OneStep:
        """Both LoRAs are merged."""
        from infra.weights import fitting, load_state_dict, load_tensor
        from tasks.models.one_step.tsd_sr import load_tsd_sr
        from tasks.stages.restorers.sd_files import read_copy

        expect = "Stable Diffusion 3 medium and TSD-SR's LoRAs (transformer.…lora_A.weight) and prompts"
        paths = [self.weights[name] for name in (BASE, *CHANGES, *PROMPTS)]
        base = read_copy(paths[0], ("transformer", "vae"))
        network, vae = (load_state_dict(path, expect=expect) for path in paths[1:3])
        prompt, pooled = (load_tensor(path, expect=expect) for path in paths[3:])
        with fitting(*paths, expect=expect):
            return load_tsd_sr(base, (network, vae), (prompt, pooled), dtype=dtype)
