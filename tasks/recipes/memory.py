"""How much GPU memory a recipe takes, told before anything is loaded: its networks, and the busiest stage at work.

One worker holds all networks of a recipe and computes with one at a time. The numbers are counted, not measured on a
card: parameters, and what lives at once in the full-size networks (`tests/benchmarks/gpu_memory.py`). The module
imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from tasks.recipes.recipe import Recipe, RecipeStage

MILLIONS = {
    "pisa_sr": 949.6,
    "diffbir": 1312.7,
    "swinir": 15.8,
    "gfpgan": 86.4,
    "ffa_net": 4.5,
    "face_tone_net": 39.2,
    "identity": 43.6,
}
"""Parameters by implementation. The compact networks have less than a million each."""
SECOND_UNET = 865.9
"""What PiSA-SR adds where its two shares differ."""
SCORERS = {"clipiqa": 102.0, "musiq": 27.1}
"""Scores are computed in float32, one face at a time."""
PARSER = 21.3
WORKING_GB = {
    "pisa_sr": 0.81,
    "diffbir": 0.81,
    "swinir": 0.3,
    "gfpgan": 0.57,
    "ffa_net": 0.81,
    "face_tone_net": 0.18,
    "identity": 0.01,
    "paste_back": 0.44,
}
"""Beside the weights, for each face of a micro-batch, in float32; SwinIR's is a guess."""
IN_RUNS_DTYPE = ("pisa_sr", "diffbir")
"""All others compute in float32 whatever the recipe says."""
CUDA_GB = 1.5
"""The driver's context and the work space of convolutions: a guess."""
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
CARD_GB = 24.0


@dataclass(frozen=True)
class GpuMemory:
    """GB: `weights` of all networks, and `per_face` of each stage by its id with the faces it takes at once."""

    weights: float
    per_face: dict[str, tuple[float, int]]

    @property
    def busiest(self) -> tuple[str, float, int]:
        """The stage that needs most while it works: its id, GB, and faces at once."""
        stage = max(self.per_face, key=lambda name: self.per_face[name][0] * self.per_face[name][1])
        each, faces = self.per_face[stage]
        return stage, each * faces, faces

    @property
    def total(self) -> float:
        """What one worker takes."""
        return self.weights + self.busiest[1] + CUDA_GB

    def faces_on(self, card: float) -> int:
        """The largest power of two that fits a card of that many GB as `micro_batch`; 0 where not even one does."""
        room = (card - self.weights - CUDA_GB) / max(each for each, _ in self.per_face.values())
        return 0 if room < 1 else 1 << (min(int(room), 256).bit_length() - 1)


def gpu_memory(recipe: Recipe) -> GpuMemory:
    """What a worker that hosts the whole recipe takes."""
    weights = sum(_weights(stage, recipe.file.dtype) for stage in recipe.stages)
    return GpuMemory(
        weights, {stage.id: (_working(stage, recipe.file.dtype), stage.batch_size) for stage in recipe.stages}
    )


def _weights(stage: RecipeStage, dtype: str) -> float:
    """GB of a stage's parameters."""
    use, given = stage.entry.implementation, stage.settings.model_dump()
    millions = MILLIONS.get(use, 0.0)
    if use == "pisa_sr" and given["lambda_pix"] != given["lambda_sem"]:
        millions += SECOND_UNET
    if use == "score":
        millions += sum(SCORERS.get(metric, 0.0) for metric in given["metrics"])
    if use == "paste_back" and given["mask"] == "parse":
        millions += PARSER
    return millions * _bytes(use, dtype) / 1000


def _working(stage: RecipeStage, dtype: str) -> float:
    """GB for each face that a stage works on."""
    use = stage.entry.implementation
    return WORKING_GB.get(use, 0.1) * _bytes(use, dtype) / 4


def _bytes(use: str, dtype: str) -> int:
    return BYTES[dtype] if use in IN_RUNS_DTYPE else 4
