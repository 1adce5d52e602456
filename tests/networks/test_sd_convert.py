"""The loaders of published checkpoints: both layouts give the same networks, and wrong files are named as such."""

import copy
import shutil

import pytest
import tiny_checkpoints as tiny
import torch
from evil_checkpoints import save_evil
from safetensors.torch import load_file, save_file

from infra.weights.checkpoint import load_checkpoint, load_state_dict
from infra.weights.errors import WeightsCorrupt, WeightsMismatch, WeightsMissing, WeightsUnsafe
from tasks.models.diffusion import clip_prompts
from tasks.models.diffusion.ir_controlnet import load_ir_controlnet
from tasks.models.diffusion.noise import SeededNoise
from tasks.models.diffusion.pisa_sr import PiSASRSettings, load_pisa_sr, merge_lora
from tasks.models.diffusion.stored_prompts import MPSR_NEGATIVE
from tasks.models.stable_diffusion.checkpoint import CheckpointError
from tasks.models.stable_diffusion.convert import PARTS, load_sd_components
from tasks.stages.restorers.diffbir import DiffBir, DiffBirSettings
from tasks.stages.restorers.pisa_sr import PisaSR, PisaSRSettings
from tasks.stages.restorers.sd_files import read_base


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoints")
    return {
        "safetensors": tiny.write_sd_checkpoint(root / "sd.safetensors"),
        "ckpt": tiny.write_sd_checkpoint(root / "sd.ckpt"),
        "folder": tiny.write_diffusers_folder(root / "sd"),
        "controlnet": tiny.write_ir_controlnet(root / "v2.pth"),
        "lora": tiny.write_pisa_lora(root / "pisa_sr.pkl"),
    }


@pytest.fixture(scope="module")
def lora(files):
    return load_checkpoint(files["lora"], expect="PiSA-SR's LoRAs")


@pytest.mark.parametrize("layout", ["safetensors", "ckpt"])
@pytest.mark.parametrize("part", PARTS)
def test_single_file_and_folder_hold_the_same_network(files, layout, part):
    single = getattr(load_sd_components(read_base(files[layout]), parts=[part]), part).state_dict()
    folder = getattr(load_sd_components(read_base(files["folder"]), parts=[part]), part).state_dict()
    assert single.keys() == folder.keys()
    assert all(torch.equal(single[key], folder[key]) for key in single)


def test_only_the_parts_asked_for_are_built(files):
    components = load_sd_components(read_base(files["safetensors"]), parts=["vae"])
    assert components.unet is None
    assert components.text_encoder is None
    assert not components.vae.training


def test_autoencoders_of_2022_name_their_attention_in_another_way(files, tmp_path):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = load_file(files["folder"] / "vae" / "diffusion_pytorch_model.safetensors")
    renamed = {}
    for key, value in state.items():
        for new, name in old.items():
            key = key.replace(f".attentions.0.{new}.", f".attentions.0.{name}.")
        renamed[key] = value
    assert renamed.keys() != state.keys()
    shutil.copytree(files["folder"], tmp_path / "sd")
    save_file(renamed, tmp_path / "sd" / "vae" / "diffusion_pytorch_model.safetensors")
    loaded = load_sd_components(read_base(tmp_path / "sd"), parts=["vae"]).vae.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


def test_a_lightning_checkpoint_loads_without_lightning(files, tmp_path):
    """The published `.ckpt` names a callback class and holds numpy scalars beside the weights."""
    import sys
    import types

    import numpy as np

    name = "pytorch_lightning.callbacks.model_checkpoint"
    module = types.ModuleType(name)
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": name})
    names = ["pytorch_lightning", "pytorch_lightning.callbacks", name]
    sys.modules.update({part: types.ModuleType(part) for part in names[:2]} | {name: module})
    state = torch.load(files["ckpt"], weights_only=True)["state_dict"]
    content = {"state_dict": state, "callbacks": {module.ModelCheckpoint: {"best_model_score": np.float64(0.5)}}}
    torch.save(content, tmp_path / "sd.ckpt")
    for part in names:
        del sys.modules[part]
    assert load_sd_components(read_base(tmp_path / "sd.ckpt"), parts=["vae"]).vae is not None


WRONG = {
    "absent": (WeightsMissing, "found no file"),
    "truncated": (WeightsCorrupt, "cannot be read"),
    "a web page": (WeightsCorrupt, "<html>"),
    "code": (WeightsUnsafe, "nothing was run"),
    "another network": (WeightsMismatch, "weights that do not fit"),
}


def spoil(kind, good, other, folder):
    """A file like `good` with that wrong in it."""
    path = folder / good.name
    if kind == "truncated":
        path.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    elif kind == "a web page":
        path = path.with_suffix(".pth")
        path.write_text("<html>Virus scan warning</html>")
    elif kind == "code":
        return save_evil(folder)
    elif kind == "another network":
        path = path.with_suffix(other.suffix)
        shutil.copy(other, path)
    return path


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("name", ["sd21_base", "diffbir_v2", "pisa_sr"])
def test_the_stages_name_a_wrong_file_and_run_nothing_in_it(files, tmp_path, name, kind):
    good = {"sd21_base": files["safetensors"], "diffbir_v2": files["controlnet"], "pisa_sr": files["lora"]}
    other = files["controlnet" if name == "sd21_base" else "safetensors"]
    stage = PisaSR(PisaSRSettings()) if name == "pisa_sr" else DiffBir(DiffBirSettings())
    stage.weights = {**good, name: spoil(kind, good[name], other, tmp_path)}
    error, words = WRONG[kind]
    with pytest.raises(error, match=words) as caught:
        stage.load("cpu", "float32")
    assert "expected" in str(caught.value)
    assert str(stage.weights[name]) in str(caught.value)
    assert not (tmp_path / "executed").exists()


def test_an_incomplete_folder_is_named(files):
    with pytest.raises(WeightsMissing, match=r"config\.json"):
        read_base(files["folder"].parent)


def test_missing_and_misshapen_weights_are_named(files):
    state = load_state_dict(files["controlnet"], expect="IRControlNet")
    del state["zero_convs.0.0.weight"]
    with pytest.raises(CheckpointError, match=r"1 missing \(controlnet_down_blocks\.0\.weight\)"):
        load_ir_controlnet(state)
    state["zero_convs.0.0.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match="of another shape"):
        load_ir_controlnet(state)
    with pytest.raises(CheckpointError, match="UNet or ControlNet"):
        load_ir_controlnet(read_base(files["safetensors"]))


def test_a_lora_of_another_network_is_named(files, lora):
    unet = load_sd_components(read_base(files["folder"]), parts=["unet"]).unet
    weights = dict(lora["state_dict_unet"])
    weights.pop("conv_in.lora_A.default_encoder_pix.weight")
    with pytest.raises(CheckpointError, match="does not fit"):
        merge_lora(unet, {**lora, "state_dict_unet": weights}, "pix")


def test_prompts_without_stored_ids_need_a_tokenizer():
    with pytest.raises(ValueError, match="tokenizer"):
        clip_prompts.token_ids("a prompt nobody has stored")


def test_stored_prompts_have_the_shape_of_the_text_encoder():
    ids = clip_prompts.token_ids(MPSR_NEGATIVE)
    assert ids.shape == (77,)
    assert ids[0] == clip_prompts.START
    assert ids[21] == clip_prompts.END
    assert not ids[22:].any()


@pytest.fixture(scope="module")
def pisa(files, lora):
    return load_pisa_sr(read_base(files["safetensors"]), lora, adjustable=True)


def test_tiles_cover_any_size(pisa):
    images = torch.rand(1, 3, 140, 300, generator=torch.Generator().manual_seed(4))
    tiles = PiSASRSettings(latent_tile=16, latent_overlap=4, encoder_tile=128, decoder_tile=128)
    tiled = pisa.restore(images, SeededNoise([1]), tiles)
    whole = pisa.restore(images, SeededNoise([1]))
    assert tiled.shape == whole.shape == images.shape
    assert tiled.isfinite().all()
    assert not torch.equal(tiled, whole)


def test_an_image_does_not_see_its_batch(pisa):
    images = torch.rand(3, 3, 128, 128, generator=torch.Generator().manual_seed(5))
    together = pisa.restore(images, SeededNoise([7, 8, 9]))
    alone = pisa.restore(images[1:2], SeededNoise([8]))
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_fp32(pisa, dtype):
    images = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(6))
    exact = pisa.restore(images, SeededNoise([1]))
    half = copy.deepcopy(pisa).to(dtype).restore(images, SeededNoise([1]))
    assert half.dtype == torch.float32
    assert 0 < (half - exact).norm() / exact.norm() < (0.05 if dtype == torch.bfloat16 else 0.01)


def test_one_network_does_not_allow_lambdas_that_differ(files, lora):
    pisa = load_pisa_sr(read_base(files["folder"]), lora)
    with pytest.raises(ValueError, match="adjustable"):
        pisa.restore(torch.rand(1, 3, 128, 128), SeededNoise([1]), PiSASRSettings(lambda_sem=0.5))
