"""GPU memory told beforehand: the counted parameters are those of the real networks, and every recipe fits 24 GB."""

from __future__ import annotations

import json
import math

import pytest
import torch
from places import PARITY

from tasks.models.faces.adaface import AdaFace
from tasks.models.faces.parsenet import ParseNet
from tasks.models.restorers.face_tone_net import FaceToneNet
from tasks.models.restorers.ffa_net import FFANet
from tasks.recipes import memory as gpu_memory
from tasks.recipes.recipe import load_recipe


def test_parameters_are_those_of_the_networks():
    with torch.device("meta"):
        networks = {
            "identity": AdaFace("ir_50"),
            "paste_back": ParseNet(),
            "ffa_net": FFANet(),
            "face_tone_net": FaceToneNet(),
        }
    found = {name: sum(value.numel() for value in net.parameters()) / 1e6 for name, net in networks.items()}
    counted = gpu_memory.MILLIONS | {"paste_back": gpu_memory.PARSER}
    assert {name: counted[name] for name in found} == pytest.approx(found, abs=0.06)


@pytest.mark.skipif(not PARITY.is_dir(), reason=f"parity fixtures are not at {PARITY}")
def test_parameters_are_those_of_the_published_checkpoints():
    shapes = json.loads((PARITY / "diffbir_fullsize_keys.json").read_text())
    sizes = {part: sum(math.prod(shape) for shape in keys.values()) / 1e6 for part, keys in shapes.items()}
    assert gpu_memory.MILLIONS["pisa_sr"] == pytest.approx(sizes["unet"] + sizes["vae"], abs=0.1)
    assert gpu_memory.MILLIONS["diffbir"] == pytest.approx(sizes["unet"] + sizes["vae"] + sizes["controlnet"], abs=0.1)
    assert pytest.approx(sizes["unet"], abs=0.1) == gpu_memory.SECOND_UNET


@pytest.mark.parametrize("recipe", ["mpsr", "mpsr-fast", "mpsr-ntire2025", "compact"])
def test_every_recipe_fits_a_card_of_24_gb(recipe):
    memory = gpu_memory.gpu_memory(load_recipe(recipe))
    assert memory.total <= gpu_memory.CARD_GB
    faces = memory.faces_on(80)
    assert faces >= 32
    assert memory.weights + gpu_memory.CUDA_GB + faces * max(each for each, _ in memory.per_face.values()) <= 80


def test_a_card_that_cannot_hold_the_networks_takes_no_face():
    assert gpu_memory.gpu_memory(load_recipe("mpsr-ntire2025")).faces_on(8) == 0


def test_what_takes_more_is_counted():
    plain = gpu_memory.gpu_memory(load_recipe("mpsr"))
    two = gpu_memory.gpu_memory(load_recipe("mpsr", {"pisa_sr": {"lambda_pix": 0.5}}))
    assert two.weights - plain.weights == pytest.approx(2 * 0.8659)
    parsed = gpu_memory.gpu_memory(load_recipe("mpsr", {"paste_back": {"mask": "parse"}}))
    assert parsed.weights > plain.weights
    assert gpu_memory.gpu_memory(load_recipe("mpsr", {"dehaze": {"batch_size": 64}})).busiest[0] == "dehaze"
    assert gpu_memory.gpu_memory(load_recipe("mpsr-ntire2025")).weights > 1.5 * plain.weights
