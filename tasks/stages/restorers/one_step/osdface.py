"""OSDFace: a face drawn anew in one step, told by codes of the face itself what to draw."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.stage import StageSettings
from tasks.stages.restorers.one_step.stage import BASE, OneStepStage

if TYPE_CHECKING:
    import torch

    from tasks.models.one_step.one_step import OneStep

LORA, CODES, CHANGE = "osdface_lora", "osdface_codes", "osdface_embedding"


class OsdFace(OneStepStage):
    """OSDFace (Wang et al., CVPR 2025). Its authors move no colours; tones may drift."""

    name = "osdface"
    parameters_m = 979.2
    tflop_per_face = 4.63

    @classmethod
    def weights_needed(cls, settings: StageSettings) -> tuple[str, ...]:
        """Stable Diffusion 2.1 base and the three files."""
        return BASE, LORA, CODES, CHANGE

    def build(self, dtype: torch.dtype) -> OneStep:
        """The prompt's networks stay in float32."""
        from infra.weights import fitting, load_state_dict
        from tasks.models.one_step.osdface import load_osdface
        from tasks.stages.restorers.sd_files import read_base

        paths = [self.weights[name] for name in (LORA, CODES, CHANGE)]
        expect = "Stable Diffusion 2.1 base and OSDFace's LoRA (unet.…lora_A), codes (vqvae_LQ.…) and embedding (conv1)"
        base = read_base(self.weights[BASE])
        lora, codes, change = (load_state_dict(path, expect=expect) for path in paths)
        with fitting(self.weights[BASE], *paths, expect=expect):
            return load_osdface(base, lora, codes, change, dtype)
