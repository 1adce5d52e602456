"""Recipes whole, from a file to a restored file, with tiny random networks in the published checkpoint layouts."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import tiny_checkpoints as tiny
import torch
from PIL import Image
from safetensors.torch import save_file

from flows.jobs import Job
from flows.restoration.shard import Planned, Shard
from flows.session import prepare
from infra.weights import WeightsError
from tasks.models.restorers.codeformer import CodeFormer, CodeFormerSizes
from tasks.recipes.recipe import load_recipe
from tasks.worker.worker import RESTORED, Worker

LICENCES = '[licences.test]\ntitle = "test"\ncommercial = "yes"\n'


def codeformer(path):
    torch.save({"params_ema": CodeFormer(CodeFormerSizes(32, 8, 32, 16, 1)).state_dict()}, path)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Name in the table of weights → tiny file."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    codeformer(folder / "codeformer.pth")
    tiny.write_sd_checkpoint(folder / "sd21_base.safetensors")
    torch.save({"state_dict": tiny.swinir()}, folder / "swinir_face.ckpt")
    found = {name: next(folder.glob(f"{name}.*")) for name in ("codeformer", "sd21_base", "swinir_face")}
    found["sd21_base_zsnr"] = tiny.write_sd_checkpoint(folder / "sd21_base_zsnr.safetensors", seed=5)
    found["diffbir_v2_1"] = tiny.write_ir_controlnet(folder / "diffbir_v2_1.pth")
    return found | tiny.write_one_step(folder)


@pytest.fixture(scope="module")
def folder(files):
    """The files in one folder, with a table that names them."""
    row = '[[weights]]\nname = "{}"\ntitle = "x"\nfile = "{}"\nby_hand = "x"\nlicence = "test"\n'
    folder = files["codeformer"].parent
    (folder / "table.toml").write_text(LICENCES + "".join(row.format(name, file.name) for name, file in files.items()))
    return folder


def restored_by(recipe, folder, tmp_path):
    """Runs a recipe on one aligned face in this process: the face, and what was written for it."""
    (tmp_path / "archive").mkdir()
    levels = np.random.default_rng(0).integers(60, 200, (8, 8, 3), np.uint8)
    face = Image.fromarray(levels).resize((512, 512), Image.Resampling.BICUBIC)
    face.save(tmp_path / "archive" / "face.png")
    settings = {"weights_dir": str(folder), "weights_table": str(folder / "table.toml"), "device": "cpu"}
    job = Job(
        source=str(tmp_path / "archive"), workspace=str(tmp_path / "ws"), recipe=recipe, aligned=True, settings=settings
    )
    prepared = prepare(job)
    image_id = hashlib.sha256((tmp_path / "archive" / "face.png").read_bytes()).hexdigest()
    shard = Shard("s", 0, {image_id: Planned(("face.png",))}, prepared.recipe, prepared.digests)
    worker = Worker(prepared.worker_config(job.workspace, threads=1))
    for stage in prepared.recipe.stages:
        items, shut = shard.items(stage)
        shard.apply(stage, [*shut, *(result.event for result in worker.run(stage.id, items))])
    (verdict,) = shard.verdicts()
    assert verdict.outcome == "restored", verdict
    return np.asarray(face), np.asarray(Image.open(tmp_path / "ws" / RESTORED / "face.png"))


RECIPES = ("codeformer", "osdface", "hypir", "sdface", "tsd-sr")


@pytest.mark.parametrize("recipe", [*RECIPES, "codeformer-ntire2025", "sdface-ntire2025", "hh-ntire2025"])
def test_a_recipe_restores_a_face(recipe, folder, tmp_path):
    given, restored = restored_by(recipe, folder, tmp_path)
    assert restored.shape == given.shape
    assert np.abs(restored.astype(int) - given).mean() > 1


WEIGHTS = {name: stage.cls for recipe in RECIPES for stage in load_recipe(recipe).stages[1:2] for name in stage.weights}


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("wrong", ["another", "half"])
def test_another_networks_file_and_half_a_file_are_refused_with_what_was_expected(name, wrong, files, tmp_path):
    """Before a face is touched, and with the file's name."""
    if files[name].is_dir():
        pytest.skip("a folder: its parts are files of diffusers")
    path = tmp_path / files[name].name
    if wrong == "half":
        data = files[name].read_bytes()
        path.write_bytes(data[: len(data) // 2])
    elif path.suffix == ".safetensors":
        save_file({"conv.weight": torch.zeros(3, 3)}, path)
    else:
        torch.save({"conv.weight": torch.zeros(3, 3)}, path)
    stage = WEIGHTS[name](WEIGHTS[name].Settings(), files | {name: path})
    with pytest.raises(WeightsError, match=rf"{path.name}.*expected"):
        stage.load("cpu", "float32")
