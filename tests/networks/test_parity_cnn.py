"""The convolutional restorers and NIQE against the original implementations (`parity/README.md`, part B)."""

from __future__ import annotations

import hashlib
import importlib.util
import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter
from places import ROOT, SHARED
from scipy.io import loadmat

from infra.weights.checkpoint import fitting, load_into, load_state_dict
from infra.weights.errors import WeightsMismatch
from tasks.models.quality import niqe
from tasks.models.restorers import gfpgan, photometric, swinir
from tasks.models.restorers.face_tone_net import FaceToneNet, tone
from tasks.models.restorers.ffa_net import FFANet, dehaze, normalise

PARITY = SHARED / "parity"
needs_fixtures = pytest.mark.skipif(not PARITY.is_dir(), reason=f"parity fixtures are not at {PARITY}")
needs_gfpgan = pytest.mark.skipif(importlib.util.find_spec("gfpgan") is None, reason="extra `gfpgan` not installed")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def recipe():
    """The fixtures' own weight and image generator."""
    spec = importlib.util.spec_from_file_location("parity_recipe", PARITY / "recipe.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def arrays(name):
    with np.load(PARITY / name) as file:
        return {key: file[key] for key in file.files}


def to_tensor(pixels):
    pixels = pixels if pixels.ndim == 4 else pixels[None]
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))).float() / 255


def relative(found, expected):
    expected = torch.as_tensor(expected)
    return float((found - expected).norm() / expected.norm())


def keysha(state):
    return hashlib.sha256("\n".join(f"{k} {tuple(v.shape)}" for k, v in sorted(state.items())).encode()).hexdigest()


@needs_fixtures
class TestFFANet:
    def test_equals_the_original_from_its_own_checkpoint(self):
        io = arrays("ffanet_gps3_blocks2_io.npz")
        net = load_into(FFANet(blocks=2), PARITY / "ffanet_gps3_blocks2.pk", expect="FFA-Net, 3 groups of 2 blocks")
        image = to_tensor(io["image_u8"])
        assert relative(net(normalise(image)), io["out_f32"]) < 1e-5
        assert relative(dehaze(net, image), io["out_f32"].clip(0, 1)) < 1e-5

    def test_full_size_has_the_released_keys(self):
        facts = json.loads((PARITY / "ffanet.json").read_text())
        state = FFANet().state_dict()
        assert len(state) == facts["keys_blocks19"]
        assert sum(v.numel() for v in state.values()) == facts["n_params_blocks19"]
        assert keysha(state) == facts["keysha_blocks19"]

    def test_another_depth_is_a_mismatch(self):
        with pytest.raises(WeightsMismatch, match="FFA-Net, 3 groups of 19 blocks"):
            load_into(FFANet(), PARITY / "ffanet_gps3_blocks2.pk", expect="FFA-Net, 3 groups of 19 blocks")


@needs_fixtures
class TestFaceToneNet:
    def test_equals_the_original(self):
        io = arrays("ftn_tiny_io.npz")
        net = load_into(FaceToneNet(width=4), PARITY / "ftn_tiny.pth", expect="FaceToneNet of width 4")
        image = to_tensor(io["image_u8"])
        assert relative(net(image * 2 - 1)[:, :, ::4, ::4], io["out_every4"]) < 1e-5
        assert relative(tone(net, image)[:, :, ::4, ::4], io["out_every4"] / 2 + 0.5) < 1e-5

    def test_full_size_has_the_released_keys(self):
        facts = json.loads((PARITY / "ftn.json").read_text())
        state = FaceToneNet().state_dict()
        assert len(state) == facts["keys_full"]
        assert sum(v.numel() for v in state.values()) == facts["params_full"]
        assert set(facts["first_keys"]) <= set(state)


class TestGFPGAN:
    @needs_fixtures
    def test_full_size_equals_the_original(self, recipe):
        io, facts = arrays("gfpgan_full_io.npz"), json.loads((PARITY / "gfpgan.json").read_text())["full"]
        shapes = _gfpgan_shapes()
        assert len(shapes) == facts["keys"]
        assert keysha(shapes) == facts["keysha"]
        net = gfpgan.build_gfpgan(recipe.fill(shapes, facts["seed"], facts["gain"]))
        restored = gfpgan.restore(net, to_tensor(io["image_u8"])) * 2 - 1
        assert relative(restored[:, :, ::8, ::8], io["out_every8"]) < 1e-4
        assert float(restored.std()) == pytest.approx(facts["out"]["std"], rel=1e-4)

    @needs_fixtures
    @needs_gfpgan
    def test_authors_backend_equals_the_original(self):
        io = arrays("gfpgan_tiny_io.npz")
        weights = load_state_dict(PARITY / "gfpgan_tiny.pth", expect="a tiny GFPGAN")
        sizes = gfpgan.GFPGANSizes(out_size=32, num_style_feat=32, narrow=0.0625)
        net = gfpgan.build_gfpgan(weights, backend="gfpgan", sizes=sizes)
        restored = gfpgan.restore(net, to_tensor(io["image_u8"]))
        assert relative(restored * 2 - 1, io["out_f32"]) < 1e-4
        assert torch.equal(restored, gfpgan.restore(net, to_tensor(io["image_u8"])))

    @needs_fixtures
    @needs_gfpgan
    @pytest.mark.slow
    def test_backends_agree(self, recipe):
        weights = recipe.fill(_gfpgan_shapes(), 42, 0.7)
        face = to_tensor(recipe.image(512, 512, 9))
        ours, theirs = (
            gfpgan.restore(gfpgan.build_gfpgan(weights, backend=backend), face) for backend in ("spandrel", "gfpgan")
        )
        assert float((ours - theirs).abs().max()) < 1e-5

    @needs_fixtures
    def test_another_size_is_a_mismatch(self):
        path = PARITY / "gfpgan_tiny.pth"
        with pytest.raises(WeightsMismatch, match=r"GFPGAN v1\.3"), fitting(path, expect="GFPGAN v1.3"):
            gfpgan.build_gfpgan(load_state_dict(path, expect="GFPGAN v1.3"))

    def test_spandrel_refuses_other_sizes(self):
        with pytest.raises(ValueError, match="released sizes only"):
            gfpgan.build_gfpgan({}, sizes=gfpgan.GFPGANSizes(out_size=32))

    def test_call_is_deterministic_and_centred(self):
        seen = {}

        class Net(torch.nn.Module):
            def forward(self, x, **options):
                seen.update(options, low=float(x.min()), high=float(x.max()), contiguous=x.is_contiguous())
                return x, []

        face = torch.rand(1, 8, 8, 3).permute(0, 3, 1, 2)
        face[0, :, 0, 0], face[0, :, 1, 1] = 0, 1
        assert torch.allclose(gfpgan.restore(Net(), face), face, atol=1e-6)
        assert seen == {"return_rgb": False, "randomize_noise": False, "low": -1, "high": 1, "contiguous": True}


def _gfpgan_shapes():
    from spandrel.architectures.GFPGAN import GFPGAN

    with torch.device("meta"):
        return GFPGAN().state_dict()


@needs_fixtures
class TestSwinIR:
    def test_equals_the_original(self):
        io = arrays("swinir_diffbir_tiny_io.npz")
        net = swinir.build_swinir(load_state_dict(PARITY / "swinir_diffbir_tiny.ckpt", expect="a tiny SwinIR"))
        image = to_tensor(io["image_u8"])
        assert relative(swinir.clean(net, image), io["out_f32"]) < 1e-5
        assert swinir.clean(net, image[..., :100, :130]).shape == (1, 3, 100, 130)

    def test_another_network_is_a_mismatch(self):
        path = PARITY / "ftn_tiny.pth"
        with pytest.raises(WeightsMismatch, match="keys of a SwinIR"), fitting(path, expect="SwinIR"):
            swinir.build_swinir(load_state_dict(path, expect="SwinIR"))


@pytest.fixture(scope="module")
def pristine():
    parameters = loadmat(PARITY / "niqe_modelparameters.mat")
    return niqe.Pristine(*(torch.from_numpy(parameters[key]) for key in ("mu_prisparam", "cov_prisparam")))


class TestNIQE:
    @needs_fixtures
    def test_equals_pyiqa(self, pristine):
        images, facts = arrays("niqe_images.npz"), json.loads((PARITY / "niqe.json").read_text())
        for name in ("a", "b"):
            score = niqe.niqe(to_tensor(images[name]), pristine)
            assert float(score) == pytest.approx(facts[name]["pyiqa_niqe"], abs=1e-4)

    @needs_fixtures
    def test_a_batch_scores_as_its_pictures(self, pristine, recipe):
        first = arrays("niqe_images.npz")["a"]
        batch = to_tensor(np.stack([first, recipe.image(512, 512, 19)]))
        expected = json.loads((PARITY / "niqe.json").read_text())["batch2"]["values"]
        assert niqe.niqe(batch, pristine).tolist() == pytest.approx(expected, abs=1e-4)

    def test_small_pictures_are_refused(self):
        with pytest.raises(ValueError, match="192"):
            niqe.niqe(torch.rand(1, 3, 190, 400), niqe.Pristine(torch.zeros(36), torch.eye(36)))

    def test_flat_blocks_do_not_spoil_the_score(self):
        picture = torch.rand(1, 3, 480, 480, generator=torch.Generator().manual_seed(1))
        picture[..., :100, :] = 0.5
        assert torch.isfinite(niqe.niqe(picture, niqe.Pristine(torch.zeros(36), torch.eye(36)))).all()


class TestPhotometric:
    @pytest.fixture
    def face(self):
        return torch.rand(2, 3, 40, 56, generator=torch.Generator().manual_seed(0))

    @pytest.mark.parametrize(("radius", "percent", "saturation"), [(0, 50, 1.1), (2, 50, 1.1), (2, 200, 0), (0, 0, 1)])
    def test_equals_pillow(self, face, radius, percent, saturation):
        found = photometric.enhance(face, radius, percent, saturation)
        for ours, tensor in zip(found, face, strict=True):
            picture = Image.fromarray((tensor * 255).byte().permute(1, 2, 0).numpy())
            sharpened = picture.filter(ImageFilter.UnsharpMask(radius, percent, 0))
            expected = np.asarray(ImageEnhance.Color(sharpened).enhance(saturation))
            assert np.array_equal((ours * 255).round().byte().permute(1, 2, 0).numpy(), expected)

    def test_quantising_truncates(self):
        assert photometric.quantise(torch.tensor([-0.1, 0.999, 0.5, 1.2])).tolist() == [0, 254, 127, 255]


def test_models_import_nothing_of_ours():
    """`tasks.models` must stay usable where only torch and its friends are installed."""
    names = (
        "ffa_net",
        "face_tone_net",
        "gfpgan",
        "swinir",
        "adaface",
        "parsenet",
        "retinaface",
        "niqe",
        "photometric",
        "iqa",
    )
    for name in names:
        source = next((ROOT / "tasks" / "models").rglob(f"{name}.py")).read_text()
        assert "from infra" not in source
        assert "from tasks." not in source.replace("from tasks.models", "")
