"""The face networks (detector, parser, recogniser) against the originals (`parity/README.md`, part B)."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
import torch
from places import SHARED

from infra.weights.checkpoint import load_into, load_state_dict
from infra.weights.errors import WeightsMismatch
from tasks.models.faces.adaface import AdaFace, embed, network_weights
from tasks.models.faces.parsenet import ParseNet, parse
from tasks.models.faces.retinaface import MEAN_BGR, RetinaFace, detect

PARITY = SHARED / "parity"
pytestmark = pytest.mark.skipif(not PARITY.is_dir(), reason=f"parity fixtures are not at {PARITY}")


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
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None].float()


def relative(found, expected):
    expected = torch.as_tensor(expected)
    return float((found - expected).norm() / expected.norm())


class TestRetinaFace:
    def check(self, net, io, heads):
        picture = to_tensor(io["image_bgr_u8"])
        boxes, classes, landmarks = net(picture - torch.tensor(MEAN_BGR).view(1, 3, 1, 1))
        assert relative(boxes, io["loc"]) < heads
        assert relative(classes, io["conf"]) < heads
        assert relative(landmarks, io["landms"]) < heads
        threshold = float(np.sort(io["conf"][0, :, 1])[-12])
        (faces,) = detect(net, picture, threshold=threshold, overlap=0.4)
        assert faces.shape == io["det"].shape
        assert relative(faces, io["det"]) < 1e-4

    def test_mobilenet_equals_facexlib(self):
        net = load_into(
            RetinaFace("mobile0.25"), PARITY / "retinaface_mobile0.25.pth", expect="RetinaFace on MobileNet-0.25"
        )
        self.check(net, arrays("retinaface_mobile0.25_io.npz"), heads=1e-5)

    def test_resnet_equals_facexlib(self, recipe):
        net = RetinaFace("resnet50").eval()
        facts = json.loads((PARITY / "extra.json").read_text())["retinaface_resnet50"]
        assert recipe.keysha(net.state_dict()) == facts["keysha"]
        net.load_state_dict(recipe.fill(net.state_dict(), 64, 0.6), strict=True)
        self.check(net, arrays("retinaface_resnet50_io.npz"), heads=1e-4)

    def test_a_batch_detects_as_its_pictures(self):
        net = load_into(RetinaFace("mobile0.25"), PARITY / "retinaface_mobile0.25.pth", expect="RetinaFace")
        picture = to_tensor(arrays("retinaface_mobile0.25_io.npz")["image_bgr_u8"])
        together = detect(net, torch.cat([picture, picture.flip(-1)]), threshold=0.5)
        alone = [detect(net, one, threshold=0.5)[0] for one in (picture, picture.flip(-1))]
        for left, right in zip(together, alone, strict=True):
            assert torch.allclose(left, right, rtol=1e-4)

    def test_nothing_found_is_an_empty_table(self):
        net = load_into(RetinaFace("mobile0.25"), PARITY / "retinaface_mobile0.25.pth", expect="RetinaFace")
        (faces,) = detect(net, torch.zeros(1, 3, 64, 64), threshold=1.0)
        assert faces.shape == (0, 15)

    def test_independently_published_file_loads_strictly(self):
        path = SHARED / "data" / "weights" / "mobilenet0.25_Final.pth"
        if not path.is_file():
            pytest.skip(f"{path} is not there")
        net = load_into(RetinaFace("mobile0.25"), path, expect="RetinaFace on MobileNet-0.25")
        assert sum(value.numel() for value in net.parameters()) == 426_608

    def test_the_other_body_is_a_mismatch(self):
        with pytest.raises(WeightsMismatch, match="ResNet-50"):
            load_into(RetinaFace("resnet50"), PARITY / "retinaface_mobile0.25.pth", expect="RetinaFace on ResNet-50")


def test_parsenet_equals_facexlib():
    io = arrays("parsenet_tiny_io.npz")
    net = ParseNet(halvings=2, width=8, depth=2, limits=(8, 16))
    net = load_into(net, PARITY / "parsenet_tiny.pth", expect="a tiny ParseNet")
    face = to_tensor(io["image_u8"]) / 255
    logits, drawn = net((face - 0.5) / 0.5)
    assert relative(logits, io["mask_logits"]) < 1e-5
    assert relative(drawn, io["rgb"]) < 1e-5
    assert torch.equal(parse(net, face), torch.from_numpy(io["mask_logits"]).argmax(1))


@pytest.mark.parametrize("depth", ["ir_18", "ir_50", "ir_101"])
def test_adaface_equals_the_original(depth, recipe, tmp_path):
    io, facts = arrays("adaface_io.npz"), json.loads((PARITY / "adaface.json").read_text())[depth]
    net = AdaFace(depth).eval()
    assert recipe.keysha(net.state_dict()) == facts["keysha"]
    filled = recipe.fill(net.state_dict(), facts["seed"], 0.6)
    released = {f"model.{key}": value for key, value in filled.items()}
    torch.save({"state_dict": {**released, "head.kernel": torch.zeros(512, 3)}}, tmp_path / "adaface.ckpt")
    checkpoint = load_state_dict(tmp_path / "adaface.ckpt", expect=f"AdaFace {depth}")
    net.load_state_dict(network_weights(checkpoint), strict=True)

    good, poor = (embed(net, to_tensor(io[f"aligned_{kind}"]) / 255) for kind in ("hq", "lq"))
    assert relative(good[0], io[f"{depth}_hq"]) < 1e-4
    assert relative(poor[0], io[f"{depth}_lq"]) < 1e-4
    assert [float(norm) for _, norm in (good, poor)] == pytest.approx(io[f"{depth}_norms"], rel=1e-4)
    assert float((good[0] * poor[0]).sum()) == pytest.approx(facts["cosine"], abs=1e-5)
