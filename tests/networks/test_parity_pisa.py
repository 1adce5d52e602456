"""PiSA-SR against fixtures that its original implementation made (fp32, CPU)."""

import json
import shutil

import pytest
import torch
from places import PARITY
from safetensors import safe_open
from safetensors.torch import load_file

from infra.weights.checkpoint import load_checkpoint
from tasks.models.diffusion.color_fix import adain_8bit, wavelet_8bit
from tasks.models.diffusion.noise import RecordedNoise
from tasks.models.diffusion.pisa_sr import PiSASRSettings, load_pisa_sr, merge_lora
from tasks.models.stable_diffusion.convert import load_sd_components
from tasks.stages.restorers.sd_files import read_base

pytestmark = pytest.mark.skipif(not PARITY.is_dir(), reason=f"no parity fixtures at {PARITY}")

TEXT_CONFIG = {
    "hidden_size": 32,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "hidden_act": "gelu",
    "vocab_size": 49408,
    "max_position_embeddings": 77,
}


def lora():
    return load_checkpoint(PARITY / "pisa_tiny.pkl", expect="PiSA-SR's LoRAs")


def relative(ours, theirs):
    ours, theirs = ours.double(), theirs.double()
    return float((ours - theirs).norm() / theirs.norm())


@pytest.fixture(scope="module")
def io():
    return load_file(PARITY / "pisa_tiny_forward.io.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The fixture's networks as the diffusers folder that the original loads."""
    root = tmp_path_factory.mktemp("sd21")
    for part in ("unet", "vae", "text_encoder"):
        source = PARITY / f"pisa_tiny_{part}.weights.safetensors"
        with safe_open(source, "pt") as file:
            config = json.loads((file.metadata() or {}).get("config", "null")) or TEXT_CONFIG
        (root / part).mkdir()
        (root / part / "config.json").write_text(json.dumps(config))
        name = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        shutil.copy(source, root / part / f"{name}.safetensors")
    return root


@pytest.fixture(scope="module")
def pisa(folder):
    return load_pisa_sr(read_base(folder), lora(), adjustable=True)


def test_merged_weights_are_exact(folder, io):
    unet = load_sd_components(read_base(folder), parts=["unet"]).unet
    names = list(unet.state_dict())
    checkpoint = lora()
    merge_lora(unet, checkpoint, "pix")
    assert torch.equal(unet.conv_in.weight, io["pix_only.merged_conv_in"])
    merge_lora(unet, checkpoint, "sem")
    assert torch.equal(unet.conv_in.weight, io["default.merged_conv_in"])
    query = unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1.to_q.weight
    assert torch.equal(query, io["default.merged_toq"])
    assert list(unet.state_dict()) == names


@pytest.mark.parametrize(
    ("tag", "lambdas"),
    [("default", (1, 1)), ("adj_1.0_1.0", (1, 1)), ("adj_0.7_1.3", (0.7, 1.3)), ("adj_1.0_0.0", (1, 0))],
)
@torch.inference_mode()
def test_every_mode_gives_the_original_output(pisa, io, tag, lambdas):
    settings = PiSASRSettings(lambda_pix=lambdas[0], lambda_sem=lambdas[1])
    assert relative(pisa.prompt, io[f"{tag}.prompt_embeds"]) < 1e-5
    latent = pisa.encode(io["c_t"], RecordedNoise([io["vae_noise"]]), settings)
    assert relative(latent, io[f"{tag}.z"]) < 1e-6
    residual = pisa.residual(latent, settings)
    assert relative(residual, io[f"{tag}.pred"]) < 1e-5
    image = pisa.restore((io["c_t"] + 1) / 2, RecordedNoise([io["vae_noise"]]), settings)
    assert relative(image * 2 - 1, io[f"{tag}.out"]) < 1e-5


@pytest.mark.parametrize(("name", "fix"), [("adain", adain_8bit), ("wavelet", wavelet_8bit)])
def test_colour_fixes_give_the_original_bytes(name, fix):
    io = load_file(PARITY / "pisa_colorfix.safetensors")
    target, source, expected = (io[key].permute(2, 0, 1)[None] for key in ("target", "source", name))
    ours = fix(target / 255, source / 255).mul(255).round()
    assert (ours - expected).abs().max() <= 1
    assert (ours == expected).float().mean() > 0.999
