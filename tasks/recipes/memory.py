"""How much GPU memory a recipe takes, told before anything is loaded: its networks, and the busiest stage at work.

One worker holds all networks of a recipe and computes with one at a time. Every stage says what it needs; the numbers
are counted, not measured on a card: parameters, and what lives at once in the full-size networks
(`tests/benchmarks/gpu_memory.py`). The module imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from tasks.recipes.recipe import Recipe

CUDA_GB = 1.5
"""The driver's context and the work space of convolutions: a guess."""
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
CARD_GB = 24.0


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """GB: `weights` of all networks, and `per_face` of each stage by its id with the faces it takes at once.

    `unknown` are the ids of stages that do not say what they take; they are in none of the numbers.
    """

    weights: float
    per_face: dict[str, tuple[float, int]]
    unknown: tuple[str, ...] = ()

    @property
    def busiest(self) -> tuple[str, float, int]:
        """The stage that needs most while it works: its id, GB, and faces at once."""
        stage = max(self.per_face, key=lambda name: self.per_face[name][0] * self.per_face[name][1])
        each, faces = self.per_face[stage]
        return stage, each * faces, faces

    @property
    def total(self) -> float | None:
        """What one worker takes; None where a stage does not say."""
        return None if self.unknown else self.weights + self.busiest[1] + CUDA_GB

    def faces_on(self, card: float) -> int:
        """The largest power of two that fits a card of that many GB as `micro_batch`; 0 where not even one does."""
        room = (card - self.weights - CUDA_GB) / max(each for each, _ in self.per_face.values())
        return 0 if room < 1 else 1 << (min(int(room), 256).bit_length() - 1)

    def __str__(self) -> str:
        """In words, such as `about 14.2 GB` or `unknown: not told by swap`."""
        return f"about {self.total:.1f} GB" if self.total else f"unknown: not told by {', '.join(self.unknown)}"


def gpu_memory(recipe: Recipe) -> GpuMemory:
    """What a worker that hosts the whole recipe takes."""
    weights, per_face, unknown = 0.0, dict[str, tuple[float, int]](), list[str]()
    for stage in recipe.stages:
        millions, working = stage.cls.parameters(stage.settings), stage.cls.working_gb
        if millions is None or working is None:
            unknown.append(stage.id)
            continue
        size = 4 if stage.cls.float32_only else BYTES[recipe.file.dtype]
        weights += millions * size / 1000
        per_face[stage.id] = working * size / 4, stage.batch_size
    return GpuMemory(weights, per_face, tuple(unknown))
