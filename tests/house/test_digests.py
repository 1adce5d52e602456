"""What a workspace holds stays valid: the digests of the recipes that ship are those of earlier versions."""

from __future__ import annotations

import hashlib

import pytest

from tasks.recipes.recipe import COMMIT, load_recipe, recipe_names

RECORDED = {
    "compact": "b1379a71bded95df56e8d30cfcec81b9282d41ac9aac27822a745529efa1b6d6",
    "mpsr": "ea3d0a4ce6b4691f9c6dde1e3ebef5900fc483fa34ef8b5e859f4062e76827f5",
    "mpsr-fast": "2a460b8a663c00e7c739396ce67cdf6ced5c1bdc919a8026d6cef636a3943c0b",
    "mpsr-ntire2025": "6cd7e14ab39aec03bf9bedce9d2d6c33322e02463391d6d95407eb865e2e31f0",
}
"""Recipe → digest of its verdicts with made-up weights on a CPU in float32, taken when tones became the picture's."""


def test_every_recipe_that_ships_is_held():
    assert set(RECORDED) == set(recipe_names())


@pytest.mark.parametrize("name", RECORDED)
def test_results_of_earlier_versions_stay_valid(name):
    recipe = load_recipe(name)
    used = {weight for stage in recipe.stages for weight in (*stage.weights, *stage.optional_weights)}
    weights = {weight: hashlib.sha256(weight.encode()).hexdigest() for weight in used}
    assert recipe.digests(weights, "cpu-float32")[COMMIT] == RECORDED[name]
