"""A whole tiny `mpsr-ntire2025` through the real engine: tiny random networks in the published checkpoint layouts.

GFPGAN has its full size with random weights, since spandrel knows no smaller one. The gate is driven by fixed scores.
"""

from __future__ import annotations

import json
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
    from spandrel.architectures.GFPGAN import GFPGAN

    from tasks.models.face_tone_net import FaceToneNet
    from tasks.models.ffa_net import FFANet

    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    tiny.write_sd_checkpoint(folder / "sd.safetensors")
    tiny.write_ir_controlnet(folder / "v2.pth")
    tiny.write_pisa_lora(folder / "pisa_sr.pkl")
    ffa = {f"module.{key}": value for key, value in FFANet(2, 1, 16).state_dict().items()}
    torch.save({"step": 1, "max_psnr": np.float64(30.0), "model": ffa}, folder / "ffa.pk")
    torch.save(FaceToneNet(width=4).state_dict(), folder / "ftn.pth")
    torch.save({"params_ema": GFPGAN().state_dict()}, folder / "gfpgan.pth")
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


@pytest.fixture
def story(tmp_path):
    """The released recipe with two DiffBIR steps, and scores by name instead of networks that cannot be had."""
    from importlib import resources

    text = resources.files("tasks").joinpath("recipes/mpsr-ntire2025.toml").read_text()
    text = text.replace('use = "score"', 'use = "fake_stages:FixedScores"')
    text = text.replace('settings = { images = ["aligned"], metrics = ["clipiqa", "musiq"] }', "")
    text = text.replace("steps = 50", "steps = 2")

    def write(**changes):
        changed = text
        for old, new in changes.values():
            assert old in changed
            changed = changed.replace(old, new)
        path = tmp_path / "tiny.toml"
        path.write_text(changed)
        return str(path)

    return write


@pytest.fixture
def faces(tmp_path):
    folder = tmp_path / "faces"
    folder.mkdir()
    for n, name in enumerate(FACES):
        ramp = np.linspace(20 + 160 * n, 60 + 160 * n, 512)[:, None, None] + np.arange(3) * 10
        Image.fromarray(np.broadcast_to(ramp, (512, 512, 3)).astype(np.uint8)).save(folder / f"{name}.png")
    return folder


def run(faces, workspace, recipe, weights):
    from flows.restore_dataset import restore_dataset

    folder, table = weights
    settings = {"workers": 1, "threads": 2, "weights_dir": str(folder), "weights_table": str(table)}
    return restore_dataset(source=str(faces), workspace=str(workspace), recipe=recipe, aligned=True, settings=settings)


def stages_of(workspace):
    from infra.manifest import Ledger
    from infra.storage import Storage

    table = Ledger.open(Storage(workspace), create=False).query(
        "SELECT path, stage, state FROM latest JOIN inventory USING (image_id) WHERE face = 0"
    )
    return {(Path(row["path"]).stem, row["stage"]): row["state"] for row in table.to_pylist()}


def test_the_released_recipe_runs_whole_gates_both_ways_resumes_and_sees_changed_weights(
    faces, tmp_path, story, weights
):
    workspace = tmp_path / "ws"
    first = run(faces, workspace, story(), weights)
    assert first["outcomes"]["restored"] == len(FACES)
    went = stages_of(workspace)
    assert went["poor", "gfpgan"] == "done"
    assert went["poor", "enhance"] == "skipped"
    assert went["fair", "gfpgan"] == "skipped"
    assert went["fair", "enhance"] == "done"
    before = {p.name: p.stat().st_mtime_ns for p in (workspace / "restored").iterdir()}
    for name in FACES:
        assert np.asarray(Image.open(workspace / "restored" / f"{name}.png")).shape == (512, 512, 3)

    assert run(faces, workspace, story(), weights)["stages"] == {}
    assert {p.name: p.stat().st_mtime_ns for p in (workspace / "restored").iterdir()} == before

    moved = story(gate=("musiq.aligned < 17", "musiq.aligned < 1"))
    third = run(faces, workspace, moved, weights)
    assert "pisa_sr" not in third["stages"], "a moved gate reruns what it drives, not what stands before it"
    assert stages_of(workspace)["poor", "gfpgan"] == "skipped"

    import torch

    from infra.weights import open_store
    from tasks.models.face_tone_net import FaceToneNet

    torch.manual_seed(7)
    torch.save(FaceToneNet(width=4).state_dict(), tmp_path / "other.pth")
    open_store(*weights).add("face_tone_net", tmp_path / "other.pth")
    fourth = run(faces, workspace, moved, weights)
    assert set(fourth["stages"]) == {"skin_tone", "truncate", "paste_back", "evaluate"}, "changed weights: what follows"
    facts = json.loads((workspace / "report/report.json").read_text())["facts"]
    assert set(facts["weights"]) >= {"sd21_base", "pisa_sr", "gfpgan_v1_3"}


def test_bf16_stays_near_fp32(faces, tmp_path, story, weights):
    run(faces, tmp_path / "a", story(), weights)
    run(
        faces,
        tmp_path / "b",
        story(dtype=('dtype = "float32"\nintermediate', 'dtype = "bfloat16"\nintermediate')),
        weights,
    )
    for name in FACES:
        a, b = (np.asarray(Image.open(tmp_path / ws / "restored" / f"{name}.png")).astype(float) for ws in ("a", "b"))
        assert np.abs(a - b).mean() < 4.0, "levels of 255, with tiny random networks"


def test_a_missing_file_is_named_with_what_to_do_before_anything_runs(faces, tmp_path, story, weights):
    from infra.weights_errors import WeightsError

    empty = tmp_path / "none"
    empty.mkdir()
    with pytest.raises(WeightsError, match="mpsr models"):
        run(faces, tmp_path / "ws", story(), (empty, weights[1]))
    assert not (tmp_path / "ws" / "_format.json").exists()
