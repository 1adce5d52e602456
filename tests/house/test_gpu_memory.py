"""GPU memory told beforehand: the counted parameters are those of the real networks, and every recipe fits 24 GB."""

from __future__ import annotations

import importlib
import json
import math
import re

import pytest
import torch
from places import PARITY
from typer.testing import CliRunner

from flows.cli import main as cli
from tasks.models.faces.adaface import AdaFace
from tasks.models.faces.parsenet import ParseNet
from tasks.models.faces.retinaface import RetinaFace
from tasks.models.restorers.codeformer import CodeFormer
from tasks.models.restorers.face_tone_net import FaceToneNet
from tasks.models.restorers.ffa_net import FFANet
from tasks.recipes import memory as gpu_memory
from tasks.recipes.recipe import load_recipe, recipe_names
from tasks.stages.table import STAGES

SHOWN = {
    "aiia-ntire2025": "about 14.9 GB",
    "allforface-middle": "about 10.1 GB",
    "codeformer": "about 6.6 GB",
    "codeformer-ntire2025": "about 6.4 GB",
    "compact": "about 3.4 GB",
    "gfpgan": "about 6.6 GB",
    "hh-ntire2025": "about 11.8 GB",
    "hypir": "about 5.3 GB",
    "mpsr": "about 14.2 GB",
    "mpsr-fast": "about 14.2 GB",
    "mpsr-ntire2025": "about 18.1 GB",
    "osdface": "about 5.4 GB",
    "sdface": "about 8.7 GB",
    "sdface-ntire2025": "about 15.3 GB",
    "tsd-sr": "about 7.7 GB",
}
SILENT = """
name = "silent"
stage = [
  { id = "detect_align" },
  { id = "brighten", use = "fake_stages:Brighten" },
  { id = "swap", use = "fake_stages:Swap" },
  { id = "paste_back" },
]
"""
"""A recipe with two stages that do not say what they need."""


def stage_class(use):
    module, _, name = STAGES[use].partition(":")
    return getattr(importlib.import_module(module), name)


def counted(use, **settings):
    cls = stage_class(use)
    return cls.parameters(cls.Settings(**settings))


def test_parameters_are_those_of_the_networks():
    with torch.device("meta"):
        networks = {
            "identity": AdaFace("ir_50"),
            "paste_back": ParseNet(),
            "ffa_net": FFANet(),
            "codeformer": CodeFormer(),
            "face_tone_net": FaceToneNet(),
            "detect_align": RetinaFace("resnet50"),
        }
    found = {name: sum(value.numel() for value in net.parameters()) / 1e6 for name, net in networks.items()}
    asked = {"paste_back": {"mask": "parse"}, "detect_align": {"detector": "retinaface"}}
    assert {name: counted(name, **asked.get(name, {})) for name in found} == pytest.approx(found, abs=0.06)


@pytest.mark.skipif(not PARITY.is_dir(), reason=f"parity fixtures are not at {PARITY}")
def test_parameters_are_those_of_the_published_checkpoints():
    shapes = json.loads((PARITY / "diffbir_fullsize_keys.json").read_text())
    sizes = {part: sum(math.prod(shape) for shape in keys.values()) / 1e6 for part, keys in shapes.items()}
    assert counted("pisa_sr") == pytest.approx(sizes["unet"] + sizes["vae"], abs=0.1)
    assert counted("diffbir") == pytest.approx(sizes["unet"] + sizes["vae"] + sizes["controlnet"], abs=0.1)
    assert counted("pisa_sr", lambda_pix=0.5) - counted("pisa_sr") == pytest.approx(sizes["unet"], abs=0.1)


@pytest.mark.parametrize("use", STAGES)
def test_every_stage_of_the_table_says_what_it_needs(use):
    assert None not in (counted(use), stage_class(use).working_gb)


def test_every_recipe_that_ships_is_counted():
    assert set(SHOWN) == set(recipe_names())


@pytest.mark.parametrize("recipe", SHOWN)
def test_every_recipe_fits_a_card_of_24_gb(recipe):
    memory = gpu_memory.gpu_memory(load_recipe(recipe))
    assert str(memory) == SHOWN[recipe]
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


def test_what_nobody_knows_is_called_unknown(tmp_path, monkeypatch):
    recipe = tmp_path / "silent.toml"
    recipe.write_text(SILENT)
    memory = gpu_memory.gpu_memory(load_recipe(str(recipe)))
    assert (memory.total, memory.unknown) == (None, ("brighten", "swap"))
    assert "brighten" not in memory.per_face
    said = CliRunner().invoke(cli.app, ["models", "list", "--recipe", str(recipe)]).stdout
    assert "GPU memory: unknown: not told by brighten, swap." in said
    assert not re.search(r"GPU memory.*\d", said)
    monkeypatch.setattr("infra.workers.has_gpu", lambda: False)
    (tmp_path / "archive").mkdir()
    plan = ["plan", str(tmp_path / "archive"), "-w", str(tmp_path / "workspace"), "--recipe", str(recipe)]
    assert f"gpu:      memory of a worker there: {memory}\n" in CliRunner().invoke(cli.app, plan).stdout
    assert f"the recipe mpsr takes {SHOWN['mpsr']}" in CliRunner().invoke(cli.app, ["doctor"]).stdout


def test_what_is_drawn_is_said():
    said = CliRunner().invoke(cli.app, ["models", "list", "--recipe", "mpsr"]).stdout
    drawn = "pisa_sr the latent noise; diffbir the noise of the start and of every step"
    assert f"Drawn from a seed of each face, the same in every run: {drawn}." in said
    assert "Drawn" not in CliRunner().invoke(cli.app, ["models", "list", "--recipe", "compact"]).stdout
