"""What a workspace holds stays valid: the digests of the recipes that ship are those of earlier versions."""

from __future__ import annotations

import hashlib

import pytest

from tasks.recipes.recipe import COMMIT, load_recipe, recipe_names

RECORDED = {
    "codeformer": "ca82ebddd498eba44b094021e9e2082e037edf5e6d79d39b50fe723bbb97f3b7",
    "compact": "f0472b7eac60e57af65852f5e4ec51358168b01d6624d1e3904244ac58499819",
    "gfpgan": "b5059c52bdffe34efb8e85bda9043988e75579972ed95fb10a450e2e60d89d97",
    "hypir": "f8662d4248517a32875d668fefa03161ca4d9e614a1a18a263df0e19610afe60",
    "osdface": "b0f6c3a83e3ab7ef64b3644f40fa55f88e7e9a0be686df690ca6d5a2bc9de77a",
    "sdface": "65ee5f38da1cb8c67555f5685860d63909352a7bd1fa63b58e5cdac7bb8bf431",
    "tsd-sr": "5b2c325ef2b88fb6636418a6288224d9a238f34db6a9928d4665ddcecbb369b0",
    "mpsr": "95b9c6f6bbad58ed0fba093cc736c9ee365508b44a06c11a2d6794ad60457b2e",
    "mpsr-fast": "e17ca048c050e60d7cf154e19a5a376ca38b5638df9b8b3eae8adf78b19d0d84",
    "mpsr-ntire2025": "4b00597f6b8c4a7fc275ffe3a3b6467c7d53c5b8b09fb58ed5ace70ec716a1b1",
}
"""Recipe → digest of its verdicts with made-up weights on a CPU in float32, taken before metrics had one table."""


def test_every_recipe_that_ships_is_held():
    assert set(RECORDED) == set(recipe_names())


@pytest.mark.parametrize("name", RECORDED)
def test_results_of_earlier_versions_stay_valid(name):
    recipe = load_recipe(name)
    used = {weight for stage in recipe.stages for weight in (*stage.weights, *stage.optional_weights)}
    weights = {weight: hashlib.sha256(weight.encode()).hexdigest() for weight in used}
    assert recipe.digests(weights, "cpu-float32")[COMMIT] == RECORDED[name]
