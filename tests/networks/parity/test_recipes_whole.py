"""Recipes whole, from a file to a restored file, with tiny random networks in the published checkpoint layouts."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from flows.jobs import Job
from flows.restoration.shard import Planned, Shard
from flows.session import prepare
from infra.weights import WeightsMismatch
from tasks.models.restorers.codeformer import CodeFormer, CodeFormerSizes
from tasks.recipes.recipe import load_recipe
from tasks.worker.worker import RESTORED, Worker

LICENCES = '[licences.test]\ntitle = "test"\ncommercial = "yes"\n'


def codeformer(path):
    torch.save({"params_ema": CodeFormer(CodeFormerSizes(32, 8, 32, 16, 1)).state_dict()}, path)


MAKERS = {"codeformer": ("codeformer.pth", codeformer)}
"""Weights → what their file is called, and what writes a tiny one."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tiny files and a table that names them."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    rows = []
    for name, (file, make) in MAKERS.items():
        make(folder / file)
        rows.append(
            f'[[weights]]\nname = "{name}"\ntitle = "{name}"\nfile = "{file}"\nby_hand = "x"\nlicence = "test"\n'
        )
    (folder / "table.toml").write_text(LICENCES + "".join(rows))
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


@pytest.mark.parametrize("recipe", ["codeformer"])
def test_a_recipe_restores_a_face(recipe, folder, tmp_path):
    given, restored = restored_by(recipe, folder, tmp_path)
    assert restored.shape == given.shape
    assert np.abs(restored.astype(int) - given).mean() > 1


@pytest.mark.parametrize("name", MAKERS)
def test_another_networks_file_is_refused_with_what_was_expected(name, folder, tmp_path):
    """Before a face is touched, and with the file's name."""
    file = MAKERS[name][0]
    cls = next(s.cls for n in [name] for s in load_recipe(n).stages if name in s.weights)
    wrong = tmp_path / file
    torch.save({"conv.weight": torch.zeros(3, 3)}, wrong)
    weights = {each: folder / MAKERS[each][0] for each in cls.weights_needed(cls.Settings())} | {name: wrong}
    with pytest.raises(WeightsMismatch, match="expected"):
        cls(cls.Settings(), weights).load("cpu", "float32")
