"""SDFace: the second of the challenge of 2025, SDXL-Turbo in one step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.stage import StageSettings
from tasks.stages.restorers.one_step.stage import OneStepStage

if TYPE_CHECKING:
    import torch

    from tasks.models.one_step.one_step import OneStep

NETWORK, PROMPT, POOLED = "sdface", "sdface_prompt", "sdface_pooled"


class SdFace(OneStepStage):
    """SDFace (team IIL). Its file holds the whole network, so Stable Diffusion XL is not needed beside it."""

    name = "sdface"
    parameters_m = 2651.1
    tflop_per_face = 5.2

    @classmethod
    def weights_needed(cls, settings: StageSettings) -> tuple[str, ...]:
        """The network and the two prompts that are part of it."""
        return NETWORK, PROMPT, POOLED

    def build(self, dtype: torch.dtype) -> OneStep:
        """Every name must fit: the released code would leave SDXL-Turbo as it is without a word."""
        from infra.weights import fitting, load_state_dict, load_tensor
        from tasks.models.one_step.sdface import load_sdface

        expect = "SDFace's network (params: unet.…base_layer, lora_A.default, vae.…) with its two stored prompts"
        path, *prompts = (self.weights[name] for name in (NETWORK, PROMPT, POOLED))
        weights = load_state_dict(path, expect=expect)
        prompt, pooled = (load_tensor(each, expect=expect) for each in prompts)
        with fitting(path, *prompts, expect=expect):
            return load_sdface(weights, prompt, pooled, dtype)
