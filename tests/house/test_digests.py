"""What a workspace holds stays valid: the digests of the recipes that ship are those of earlier versions."""

from __future__ import annotations

import hashlib

import pytest

from tasks.recipes.recipe import COMMIT, load_recipe, recipe_names

RECORDED = {
    "aiia-ntire2025": "b4310e1715b4ea6be8af31d3d0be340883ae87fe699b2d88480aa6100ebe03b0",
    "allforface-middle": "f78ecf5ea2ac5bb7779fcc6b642fb90b68bb02d325d014dc5c219a274ed9f313",
    "codeformer": "eae8575eba8a9db55df3f99a85c3738b8ca0e9a4a05aa09d3f1d37391dd12498",
    "codeformer-ntire2025": "538d0d559d176c5a124e8d767c00563f2ddbb29eaaeb861f69d9fd098396752e",
    "compact": "b1379a71bded95df56e8d30cfcec81b9282d41ac9aac27822a745529efa1b6d6",
    "gfpgan": "366b795921adb919301ae6cfe789ca6c49586dc01a9d35b45608b559d82b417f",
    "hh-ntire2025": "4524fd080e350c8be34e75052f434de50a2db014a301426f426cdec8db3385c2",
    "hypir": "f3f105b46e2d63dd7911d57befab20f07dc129f35b44289cac48a34106a42da1",
    "mpsr": "ea3d0a4ce6b4691f9c6dde1e3ebef5900fc483fa34ef8b5e859f4062e76827f5",
    "mpsr-fast": "2a460b8a663c00e7c739396ce67cdf6ced5c1bdc919a8026d6cef636a3943c0b",
    "mpsr-ntire2025": "6cd7e14ab39aec03bf9bedce9d2d6c33322e02463391d6d95407eb865e2e31f0",
    "osdface": "2c3ff85f24f32303f01266f51645cd7920a7eeb5b77899a9ddc49cd19bea1b3d",
    "sdface": "a104c1eaa7692c4ee8140df4cf506b0b914084e8065889da5aa47cb85403cc86",
    "sdface-ntire2025": "061977296e0ea8761994b3090bbd6b7d80c0ea3aa5d725b58b6cc40fbda3bc5d",
    "tsd-sr": "3c7f99f982848162d688edd405e107607bdf41cf5a76093c2500a75f7808e186",
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
