"""The one-step family against the original implementations (`parity/README.md`, parts D to G)."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from places import PARITY
from safetensors import safe_open
from safetensors.torch import load_file

from infra.weights.checkpoint import load_state_dict
from tasks.models.diffusion.color_fix import adain_8bit, wavelet_8bit, wavelet_reconstruction
from tasks.models.diffusion.noise import RecordedNoise
from tasks.models.diffusion.tiling import Tiling, diffbir_mask
from tasks.models.one_step import hypir, lora, osdface, sdface, tsd_sr
from tasks.models.one_step.one_step import WHOLE, Tiles, from_noise
from tasks.models.stable_diffusion.checkpoint import CheckpointError
from tasks.models.stable_diffusion.convert import DiffusersCopy

pytestmark = pytest.mark.skipif(not PARITY.is_dir(), reason=f"no parity fixtures at {PARITY}")
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "hidden_act": "gelu",
    "vocab_size": 49408,
    "max_position_embeddings": 77,
}


def state(name):
    return load_state_dict(PARITY / name, expect="a fixture")


def floats(name):
    return {key: value.float() for key, value in state(name).items()}


def copy_of(stem, **parts):
    """A diffusers copy of fixture files with their configurations."""
    found = {}
    for part, name in parts.items():
        file = f"{stem}_{name}.weights.safetensors"
        with safe_open(PARITY / file, "pt") as opened:
            config = json.loads((opened.metadata() or {}).get("config", "null")) or TEXT
        found[part] = config, floats(file)
    return DiffusersCopy(found)


@pytest.fixture(scope="module")
def sd21():
    return copy_of("pisa_tiny", unet="unet", vae="vae", text_encoder="text_encoder")


def of(name, case):
    """A case's tensors, without its name."""
    found = load_file(PARITY / f"{name}_tiny.io.safetensors")
    return {key.removeprefix(f"{case}."): value for key, value in found.items() if key.startswith(f"{case}.")}


def picture(io):
    return io["image_u8"].permute(2, 0, 1)[None].float() / 255


def bytes_of(image):
    """Truncated, (H, W, 3)."""
    return (image[0].permute(1, 2, 0) * 255).clamp(0, 255).trunc()


def near(image, png):
    assert (bytes_of(image) - png.float()).abs().max() <= 1


class TestStep:
    def test_the_clean_latent_follows_from_the_schedule(self):
        hypir_step, osd_step = from_noise(200), from_noise(399)
        assert (hypir_step.keep, hypir_step.remove) == pytest.approx((1.1518689, 0.5716659), abs=1e-6)
        assert (osd_step.keep, osd_step.remove) == pytest.approx((1.5319733, 1.1605783), abs=1e-6)

    def test_the_clean_latent_is_computed_in_float64(self):
        latent, answer = torch.tensor([1e4]), torch.tensor([1e4])
        step = from_noise(399)
        expected = step.keep * 1e4 - step.remove * 1e4
        assert float(step.clean(latent, answer)) == pytest.approx(expected, rel=1e-7)


class TestOSDFace:
    @pytest.fixture(scope="class")
    def prompt(self):
        codes = state("osdface_tiny_associate.ckpt")
        return osdface.build_prompt(codes, floats("osdface_tiny_embedding_change.pth"))

    def network(self, sd21, file="osdface_tiny_lora.safetensors"):
        files = (state(name) for name in (file, "osdface_tiny_associate.ckpt", "osdface_tiny_embedding_change.pth"))
        return osdface.load_osdface(sd21, *files)

    @pytest.mark.parametrize("case", ["rect", "flat"])
    @torch.inference_mode()
    def test_the_prompt_is_the_originals_code_by_code(self, prompt, case, relative):
        io = of("osdface", case)
        features = prompt.features(picture(io))[0]
        distances, nearest = prompt.nearest(features)
        assert nearest.tolist() == io["nearest"].tolist()
        assert relative(distances, io["distance_f64"]) < 1e-5
        assert prompt.chosen(features) == io["codes"].tolist()
        assert relative(prompt(picture(io)), io["prompt"]) < 1e-5

    @pytest.mark.parametrize(("case", "file"), [("rect", "lora"), ("flat", "lora"), ("rect_updown", "lora_updown")])
    @torch.inference_mode()
    def test_equals_the_original(self, sd21, case, file, relative):
        network, io = self.network(sd21, f"osdface_tiny_{file}.safetensors"), of("osdface", case.split("_")[0])
        wanted = io | of("osdface", case)
        latent = network.encode(picture(io) * 2 - 1, RecordedNoise([io["vae_noise"]]))
        assert relative(latent, io["z"]) < 1e-5
        assert relative(network.answer(latent, network.prompt(picture(io))), wanted["eps"]) < 1e-5
        assert relative(network.denoise(latent, network.prompt(picture(io))), wanted["x0"]) < 1e-5
        restored = network.restore(picture(io), RecordedNoise([io["vae_noise"]])).clamp(0, 1)
        assert relative(restored, wanted["out"]) < 1e-5
        near(restored, wanted["png"])

    @torch.inference_mode()
    def test_a_batch_is_its_faces(self, prompt, relative):
        faces = torch.cat([picture(of("osdface", case)) for case in ("rect", "flat")])
        for alone, row in zip(faces, prompt(faces), strict=True):
            assert relative(row, prompt(alone[None])[0]) < 1e-5

    @torch.inference_mode()
    def test_full_size_has_the_published_keys_and_the_originals_prompt(self, recipe, relative):
        shapes = json.loads((PARITY / "osdface_keys.json").read_text())
        groups = [group for group in shapes.values() if isinstance(group, dict)]
        codes, change = sorted(groups, key=len, reverse=True)[:2] if groups else _split(shapes)
        codes = {key.removeprefix(osdface.PREFIX): torch.empty(shape) for key, shape in codes.items()}
        weights = recipe.fill(codes, 141, 1.0)
        weights["quantize.embedding.weight"] *= 3
        changing = recipe.fill({key: torch.empty(shape) for key, shape in change.items()}, 142, 1.5)
        prompt = osdface.build_prompt({osdface.PREFIX + key: value for key, value in weights.items()}, changing)
        io = load_file(PARITY / "osdface_full_prompt.io.safetensors")
        face = torch.from_numpy(recipe.image(512, 512, 64).transpose(2, 0, 1).copy())[None].float() / 255
        features = prompt.features(face)[0]
        assert prompt.chosen(features) == io["codes"].tolist()
        assert relative(prompt(face)[..., ::8], io["prompt_every8"]) < 1e-4

    def test_another_file_is_refused(self):
        with pytest.raises(CheckpointError, match=r"vqvae_LQ.*is missing"):
            osdface.build_prompt({"vqvae_HQ.x": torch.zeros(1)}, floats("osdface_tiny_embedding_change.pth"))


def _split(shapes):
    change = {key: shape for key, shape in shapes.items() if key.startswith(("conv1.", "conv2."))}
    return {key: shape for key, shape in shapes.items() if key not in change}, change


class TestHYPIR:
    @pytest.fixture(scope="class")
    def network(self, sd21):
        return hypir.load_hypir(sd21, state("hypir_tiny.pth"))

    @torch.inference_mode()
    def test_equals_the_original_in_tiles(self, network, relative):
        io, cuts = of("hypir", "tiled"), hypir.tiles(64, 32)
        assert relative(network.prompt(picture(io)), io["text_embed"]) < 1e-5
        noise = [io[f"noise.{n:02}"] for n in range(6)]
        latent = network.encode(io["vae_input"], RecordedNoise(noise), cuts.encoder)
        assert relative(latent / network.vae.config.scaling_factor, io["z_lq"]) < 1e-5
        prompt = network.prompt(picture(io))
        assert relative(network.answer(latent[..., :8, :8], prompt), io["eps.00"]) < 1e-5
        clean = network.denoise(latent, prompt, cuts.network)
        assert relative(clean / network.vae.config.scaling_factor, io["z"]) < 1e-5
        assert relative(network.decode(clean, cuts.decoder), io["decoded"]) < 1e-5
        restored = network.restore(picture(io), RecordedNoise(noise), cuts)
        assert relative(restored, io["before_wavelet"]) < 1e-5
        out = wavelet_reconstruction(restored, io["ref"]).clamp(0, 1)
        assert relative(out, io["out"]) < 1e-5
        near(out, io["png"])

    def test_full_size_changes_the_published_modules(self):
        shapes = json.loads((PARITY / "hypir_keys.json").read_text())
        from diffusers import UNet2DConditionModel

        sizes = {"block_out_channels": (320, 640, 1280, 1280), "attention_head_dim": (5, 10, 20, 20)}
        with torch.device("meta"):
            unet = UNet2DConditionModel(**sizes, cross_attention_dim=1024, use_linear_projection=True)
        published = {key.rpartition(".lora_")[0] for key in shapes}
        assert lora.adapted(unet, hypir.ADAPTED) == published

    def test_a_file_that_lost_a_change_is_refused(self, sd21):
        weights = state("hypir_tiny.pth")
        short = {key: value for key, value in weights.items() if "mid_block.resnets.0.conv1" not in key}
        with pytest.raises(CheckpointError, match=r"expected changes of 256 modules, found 255.*mid_block"):
            hypir.load_hypir(sd21, short)


class TestSDFace:
    @pytest.fixture(scope="class")
    def network(self):
        prompts = state("sdface_tiny_prompts.pt")
        return sdface.load_sdface(state("sdface_tiny.pth"), prompts["prompt_embeds"], prompts["add_text_embeds"])

    def test_the_size_it_is_told_is_the_published_one(self):
        assert state("sdface_tiny_prompts.pt")["add_time_ids"].flatten().tolist() == list(sdface.TIME_IDS)

    @pytest.mark.parametrize("case", ["rect", "square"])
    @torch.inference_mode()
    def test_equals_the_original(self, network, case, relative):
        io = of("sdface", case)
        latent = network.encode(picture(io) * 2 - 1, RecordedNoise([io["vae_noise"]]))
        assert relative(latent, io["z"]) < 2e-5
        clean = network.denoise(latent, network.prompt(picture(io)))
        assert relative(clean, io["pred"]) < 2e-5
        assert relative(network.decode(clean), io["decoded"]) < 2e-5
        restored = network.restore(picture(io), RecordedNoise([io["vae_noise"]]))
        written = (restored[0].permute(1, 2, 0) * 255).round().clamp(0, 255)
        assert (written - io["png"].float()).abs().max() <= 1

    def test_full_size_is_read_off_the_published_names(self):
        shapes = json.loads((PARITY / "sdface_keys.json").read_text())
        shapes = {k: s for group in shapes.values() for k, s in group.items()} if "unet" in shapes else shapes
        with torch.device("meta"):
            weights = {key: torch.empty(shape) for key, shape in shapes.items()}
            network = sdface.load_sdface(weights, torch.empty(1, 77, 2048), torch.empty(1, 1280))
        assert network.network.config.transformer_layers_per_block == [1, 2, 10]
        total = sum(value.numel() for value in network.parameters())
        assert total == 2_703_644_651 - 46_448_640 - 6_078_464

    def test_names_of_another_kind_are_refused(self):
        prompts = state("sdface_tiny_prompts.pt")
        renamed = {key.replace(".base_layer", ".base"): value for key, value in state("sdface_tiny.pth").items()}
        with pytest.raises(CheckpointError, match="SDFace"):
            sdface.load_sdface(renamed, prompts["prompt_embeds"], prompts["add_text_embeds"])


class TestTSDSR:
    @pytest.fixture(scope="class")
    def network(self):
        changes = state("tsdsr_tiny_lora_transformer.safetensors"), state("tsdsr_tiny_lora_vae.safetensors")
        prompts = (
            torch.load(PARITY / f"tsdsr_tiny_{name}_embeds.pt", weights_only=True) for name in ("prompt", "pool")
        )
        return tsd_sr.load_tsd_sr(copy_of("tsdsr_tiny", transformer="transformer", vae="vae"), changes, tuple(prompts))

    @pytest.mark.parametrize("case", ["x1", "x4_small_odd"])
    @torch.inference_mode()
    def test_equals_the_original(self, network, case, relative):
        io = of("tsdsr", case)
        given = (io["pixels"] + 1) / 2
        latent = network.encode(io["pixels"], RecordedNoise([io["vae_noise"]]))
        assert relative(latent, io["z"]) < 1e-5
        assert relative(network.answer(latent, network.prompt(given)), io["v"]) < 1e-5
        clean = network.denoise(latent, network.prompt(given))
        assert relative(clean / network.vae.config.scaling_factor, io["dec_in"]) < 1e-5
        assert relative(network.decode(clean), io["decoded"]) < 1e-5

    @torch.inference_mode()
    def test_what_is_written_is_the_originals(self, network):
        io = of("tsdsr", "x1")
        restored = network.restore(picture(io), RecordedNoise([io["vae_noise"]]))
        near(restored, of("tsdsr", "x1_nofix")["png"])
        near(wavelet_8bit(restored, picture(io)), io["png"])
        near(adain_8bit(restored, picture(io)), of("tsdsr", "x1_adain")["png"])

    @torch.inference_mode()
    def test_equals_the_original_in_tiles(self, network, relative):
        io = of("tsdsr", "tiled")
        cuts = Tiles(network=Tiling(8, 6, diffbir_mask))
        latent = network.encode(io["pixels"], RecordedNoise([io["vae_noise"]]), WHOLE.encoder)
        clean = network.denoise(latent, network.prompt(picture(io)), cuts.network)
        assert relative(network.decode(clean), io["decoded"]) < 1e-5

    def test_full_size_changes_the_published_modules(self):
        from diffusers import SD3Transformer2DModel

        shapes = json.loads((PARITY / "tsdsr_keys.json").read_text())
        names = shapes.get("transformer", shapes)
        published = {key.rpartition(".lora_")[0].removeprefix("transformer.") for key in names}
        with torch.device("meta"):
            network = SD3Transformer2DModel(
                num_layers=24, num_attention_heads=24, pos_embed_max_size=192, caption_projection_dim=1536
            )
        assert lora.adapted(network, tsd_sr.ADAPTED) == published


STATE = {"a.weight": torch.zeros(4, 3), "b.weight": torch.zeros(4, 3, 3, 3)}


class TestLora:
    def pair(self, module, *kernel):
        return {f"{module}.lora_A.weight": torch.ones(2, 3, *kernel), f"{module}.lora_B.weight": torch.ones(4, 2)}

    def test_linear_and_convolution(self):
        merged = lora.merged(STATE, self.pair("a") | self.pair("b", 3, 3), "x")
        assert all(np.allclose(value, 2) for value in merged.values())
        assert not STATE["a.weight"].any(), "what was given stays"

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({}, "found none"),
            ({"a.lora_A.weight": torch.ones(2, 3)}, "both halves"),
            ({"c.lora_A.weight": torch.ones(2, 3), "c.lora_B.weight": torch.ones(4, 2)}, "known module"),
            ({"a.lora_A.weight": torch.ones(2, 5), "a.lora_B.weight": torch.ones(4, 2)}, r"a\.weight is"),
            ({"a.weight": torch.ones(2, 3)}, "expected names such as"),
        ],
    )
    def test_what_does_not_fit_is_said(self, change, said):
        with pytest.raises(CheckpointError, match=said):
            lora.merged(STATE, change, "x")
