"""Which recipe for whom: what each of those that ship costs in arithmetic, memory and downloads, and under which terms.

Everything is read from the recipes, their stages and the table of weights; nothing is measured, and nothing loaded.
"""

from __future__ import annotations

from dataclasses import dataclass

from infra.weights import WeightsTable
from tasks.recipes.memory import gpu_memory
from tasks.recipes.recipe import load_recipe, recipe_names


@dataclass(frozen=True, slots=True)
class Offer:
    """One recipe. `tflop`: 10^12 operations of its restorers for a face that goes through all of them; `gpu_gb`: None
    where a stage does not say; `download_gb`: of files that it cannot run without, None where a size is not known;
    `commercial`: the strictest of their licences; `judged`: whether identity is checked before a face is pasted back.
    """

    name: str
    description: str
    tflop: float
    gpu_gb: float | None
    download_gb: float | None
    commercial: str
    judged: bool


def offers() -> list[Offer]:
    """Every recipe that ships, the cheapest first."""
    table = WeightsTable.load()
    return sorted((_offer(name, table) for name in recipe_names()), key=lambda offer: (offer.tflop, offer.name))


def _offer(name: str, table: WeightsTable) -> Offer:
    recipe = load_recipe(name)
    needed = dict.fromkeys(weight for stage in recipe.stages for weight in stage.weights)
    rows = [table[weight] for weight in needed if not table[weight].package]
    sizes = [row.bytes or row.about_bytes for row in rows]
    known = [size for size in sizes if size is not None]
    terms = {table.licence(weight).commercial for weight in needed}
    return Offer(
        name,
        recipe.file.description,
        sum(stage.cls.tflop(stage.settings) for stage in recipe.stages),
        gpu_memory(recipe).total,
        sum(known) / 1e9 if len(known) == len(sizes) else None,
        next((term for term in ("no", "unknown") if term in terms), "yes"),
        any(stage.entry.implementation == "identity" for stage in recipe.stages),
    )
