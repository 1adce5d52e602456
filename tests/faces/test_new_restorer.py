"""Adding a restorer takes two new files and one line: a toy one goes from its recipe into a restored picture."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from test_knobs import cases_of
from typer.testing import CliRunner

import tasks.models.restorers
import tasks.stages.restorers
from flows.cli import main as cli
from flows.jobs import Job
from flows.restoration.shard import Planned, Shard
from flows.session import prepare
from tasks.recipes.memory import gpu_memory
from tasks.recipes.recipe import COMMIT, load_recipe
from tasks.stages.table import STAGES
from tasks.worker.worker import RESTORED, Worker

NETWORK = '''
import torch
from torch import nn


class Gain(nn.Module):
    """One number, by which every level is multiplied."""

    def __init__(self):
        super().__init__()
        self.by = nn.Parameter(torch.ones(1))

    def forward(self, images):
        return images * self.by
'''
STAGE = '''
from tasks.stages.network import NetworkStage


class Toy(NetworkStage):
    """A restorer that makes faces brighter or darker."""

    name = "toy"
    reads = ("aligned",)
    source = "aligned"
    parameters_m = 500.0
    working_gb = 0.5

    @classmethod
    def weights_needed(cls, settings):
        return ("toy",)

    def build(self):
        from infra.weights import load_into
        from tasks.models.restorers.toy import Gain

        return load_into(Gain(), self.weights["toy"], expect="the toy")
'''
LINE = "toy", "tasks.stages.restorers.toy:Toy"
RECIPE = """
name = "with_toy"
dtype = "bfloat16"
stage = [{ id = "detect_align", settings = { detector = "none" } }, { id = "toy" }, { id = "paste_back" }]
"""
TABLE = """
[licences.test]
title = "test"
commercial = "yes"
[[weights]]
name = "toy"
title = "the toy"
file = "toy.safetensors"
by_hand = "test"
licence = "test"
"""


@pytest.fixture
def job(tmp_path, monkeypatch):
    """The toy's two files beside the real ones, its line in the table, its weights, and a recipe with it."""
    for package, text in ((tasks.models.restorers, NETWORK), (tasks.stages.restorers, STAGE)):
        folder = tmp_path / package.__name__
        folder.mkdir()
        (folder / "toy.py").write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    monkeypatch.setitem(STAGES, *LINE)
    save_file({"by": torch.tensor([0.5])}, tmp_path / "toy.safetensors")
    (tmp_path / "archive").mkdir()
    levels = np.random.default_rng(0).integers(60, 200, (512, 512, 3), np.uint8)
    Image.fromarray(levels).save(tmp_path / "archive" / "face.png")
    for name, text in (("recipe.toml", RECIPE), ("table.toml", TABLE)):
        (tmp_path / name).write_text(text)
    settings = {"weights_dir": str(tmp_path), "weights_table": str(tmp_path / "table.toml"), "device": "cpu"}
    monkeypatch.setenv("MPSR_WEIGHTS_DIR", settings["weights_dir"])
    monkeypatch.setenv("MPSR_WEIGHTS_TABLE", settings["weights_table"])
    return Job(
        source=str(tmp_path / "archive"),
        workspace=str(tmp_path / "workspace"),
        recipe=str(tmp_path / "recipe.toml"),
        settings=settings,
    )


def test_the_toy_is_known_wherever_restorers_are(job):
    recipe = load_recipe(job.recipe)
    assert recipe.stage("toy").weights == ("toy",)
    plain, other = (recipe.digests({"toy": sha256}, "cpu-bfloat16") for sha256 in ("aa", "bb"))
    assert {name for name in plain if plain[name] != other[name]} == {"toy", "paste_back", COMMIT}
    memory = gpu_memory(recipe)
    assert memory.weights == pytest.approx(1.0), "in the recipe's dtype"
    assert memory.per_face["toy"] == (0.25, 8)
    assert len(cases_of(recipe.stage("toy").cls)["strength"]) == 3, "its settings are tried like every other stage's"
    said = CliRunner().invoke(cli.app, ["models", "list", "--recipe", job.recipe]).stdout
    assert f"GPU memory: {memory} (" in said
    assert "toy" in said.splitlines()[1]


def test_the_toy_restores_a_picture(job, tmp_path):
    data = (tmp_path / "archive" / "face.png").read_bytes()
    image_id = hashlib.sha256(data).hexdigest()
    prepared = prepare(job)
    shard = Shard("s", 0, {image_id: Planned(("face.png",))}, prepared.recipe, prepared.digests)
    worker = Worker(prepared.worker_config(job.workspace, threads=1))
    for stage in prepared.recipe.stages:
        items, gated = shard.items(stage)
        assert not gated
        shard.apply(stage, [result.event for result in worker.run(stage.id, items)])
    (verdict,) = shard.verdicts()
    assert verdict.outcome == "restored"
    restored = np.asarray(Image.open(tmp_path / "workspace" / RESTORED / "face.png"), np.float64)
    given = np.asarray(Image.open(tmp_path / "archive" / "face.png"), np.float64)
    middle = slice(200, 300)
    assert np.median(restored[middle, middle] / given[middle, middle]) == pytest.approx(0.5, abs=0.01)
