"""A whole tiny `mpsr-ntire2025` through the real engine: tiny random networks in the published checkpoint layouts.

GFPGAN has its full size with random weights, since spandrel knows no smaller one. The gate is driven by fixed scores.
"""

from __future__ import annotations

import json
import os
import shutil
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.usefixtures("prefect_server", "ray_cluster")

FACES = ("poor", "fair")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder of tiny checkpoints, and a table that expects no published size or hash."""
    torch = pytest.importorskip("torch")
    import tiny_checkpoints as tiny

    from tasks.models.restorers.face_tone_net import FaceToneNet
    from tasks.models.restorers.ffa_net import FFANet

    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    tiny.write_sd_checkpoint(folder / "sd.safetensors")
    tiny.write_ir_controlnet(folder / "v2.pth")
    tiny.write_pisa_lora(folder / "pisa_sr.pkl")
    ffa = {f"module.{key}": value for key, value in FFANet(2, 1, 16).state_dict().items()}
    torch.save({"step": 1, "max_psnr": np.float64(30.0), "model": ffa}, folder / "ffa.pk")
    torch.save(FaceToneNet(width=4).state_dict(), folder / "ftn.pth")
    torch.save({"params_ema": gfpgan_weights(torch)}, folder / "gfpgan.pth")
    files = {
        "sd21_base": "sd.safetensors",
        "diffbir_v2": "v2.pth",
        "pisa_sr": "pisa_sr.pkl",
        "ffa_net_ots": "ffa.pk",
        "face_tone_net": "ftn.pth",
        "gfpgan_v1_3": "gfpgan.pth",
    }
    rows = [
        f'[[weights]]\nname = "{name}"\ntitle = "tiny {name}"\nfile = "{file}"\nby_hand = "test"\nlicence = "test"\n'
        for name, file in files.items()
    ]
    table = folder / "table.toml"
    table.write_text('[licences.test]\ntitle = "test"\ncommercial = "yes"\n' + "".join(rows))
    return folder, table


def gfpgan_weights(torch):
    """Random numbers in the layout of the release, at its size, quicker than the network's own start."""
    from spandrel.architectures.GFPGAN import GFPGAN

    with torch.device("meta"):
        shapes = GFPGAN().state_dict()
    return {key: torch.randn(value.shape) / max(1, value[0].numel()) ** 0.5 for key, value in shapes.items()}


def tiny_recipe(folder, dtype="float32"):
    """The released recipe with two DiffBIR steps, and scores by name instead of networks that cannot be had."""
    text = resources.files("tasks").joinpath("recipes/mpsr-ntire2025.toml").read_text()
    changes = {
        'use = "score"': 'use = "fake_stages:FixedScores"',
        'settings = { images = ["aligned"], metrics = ["clipiqa", "musiq"] }': "",
        "steps = 50": "steps = 2",
        'dtype = "float32"\nintermediate': f'dtype = "{dtype}"\nintermediate',
    }
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path = folder / f"tiny-{dtype}.toml"
    path.write_text(text)
    return str(path)


def face_picture(n):
    ramp = np.linspace(20 + 160 * n, 60 + 160 * n, 512)[:, None, None] + np.arange(3) * 10
    return Image.fromarray(np.broadcast_to(ramp, (512, 512, 3)).astype(np.uint8))


@pytest.fixture(scope="module")
def first(tmp_path_factory, weights):
    """One run of the whole recipe over a poor and a fair face: its archive, workspace, recipe and summary."""
    folder = tmp_path_factory.mktemp("story")
    (folder / "faces").mkdir()
    for n, name in enumerate(FACES):
        face_picture(n).save(folder / "faces" / f"{name}.png")
    recipe = tiny_recipe(folder)
    summary = run(folder / "faces", folder / "ws", recipe, weights)
    return folder / "faces", folder / "ws", recipe, summary


def run(faces, workspace, recipe, weights):
    from flows.restore_dataset import restore_dataset

    folder, table = weights
    settings = {"workers": 1, "threads": 2, "weights_dir": str(folder), "weights_table": str(table)}
    asked = {"source": str(faces), "workspace": str(workspace), "recipe": recipe, "settings": settings}
    return restore_dataset(**asked, aligned=True).model_dump(mode="json")


def stages_of(workspace):
    from infra.ledger.ledger import Ledger
    from infra.storage.storage import Storage

    table = Ledger.open(Storage(workspace), create=False).query(
        "SELECT path, stage, state FROM latest JOIN inventory USING (image_id) WHERE face = 0"
    )
    return {(Path(row["path"]).stem, row["stage"]): row["state"] for row in table.to_pylist()}


def restored(workspace, name):
    return np.asarray(Image.open(workspace / "restored" / f"{name}.png"))


def test_the_released_recipe_runs_whole_and_its_gate_goes_both_ways(first):
    _, workspace, _, summary = first
    assert summary["outcomes"]["restored"] == len(FACES)
    went = stages_of(workspace)
    assert went["poor", "gfpgan"] == "done"
    assert went["poor", "enhance"] == "skipped"
    assert went["fair", "gfpgan"] == "skipped"
    assert went["fair", "enhance"] == "done"
    assert all(restored(workspace, name).shape == (512, 512, 3) for name in FACES)
    facts = json.loads((workspace / "report/report.json").read_text())["facts"]
    assert set(facts["weights"]) >= {"sd21_base", "pisa_sr", "gfpgan_v1_3"}


def test_a_second_run_does_nothing_and_changed_weights_rerun_what_follows(first, weights, tmp_path):
    import torch

    from infra.weights.store import open_store
    from tasks.models.restorers.face_tone_net import FaceToneNet

    faces, workspace, recipe, _ = first
    workspace = Path(shutil.copytree(workspace, tmp_path / "ws"))
    before = {p.name: p.stat().st_mtime_ns for p in (workspace / "restored").iterdir()}
    assert run(faces, workspace, recipe, weights)["stages"] == {}
    assert {p.name: p.stat().st_mtime_ns for p in (workspace / "restored").iterdir()} == before

    torch.manual_seed(7)
    torch.save(FaceToneNet(width=4).state_dict(), tmp_path / "other.pth")
    folder = Path(shutil.copytree(weights[0], tmp_path / "weights", copy_function=os.link))
    open_store(folder, weights[1]).add("face_tone_net", tmp_path / "other.pth")
    changed = run(faces, workspace, recipe, (folder, weights[1]))
    assert set(changed["stages"]) == {"skin_tone", "truncate", "paste_back", "evaluate"}
    assert not np.array_equal(restored(workspace, "fair"), restored(first[1], "fair"))


def test_bf16_stays_near_fp32(first, weights, tmp_path):
    """On the fair face only: the poor one adds GFPGAN, which computes in float32 in either case."""
    (tmp_path / "faces").mkdir()
    shutil.copy(first[0] / "fair.png", tmp_path / "faces")
    run(tmp_path / "faces", tmp_path / "ws", tiny_recipe(tmp_path, "bfloat16"), weights)
    a, b = (restored(workspace, "fair").astype(float) for workspace in (first[1], tmp_path / "ws"))
    assert 0 < np.abs(a - b).mean() < 4.0, "levels of 255, with tiny random networks"


def test_a_missing_file_is_named_with_what_to_do_before_anything_runs(first, weights, tmp_path):
    from infra.weights.errors import WeightsError

    empty = tmp_path / "none"
    empty.mkdir()
    with pytest.raises(WeightsError, match="mpsr models"):
        run(first[0], tmp_path / "ws", first[2], (empty, weights[1]))
    assert not (tmp_path / "ws" / "_format.json").exists()
