"""CodeFormer at full size against the original classes (`parity/README.md`, part C), and its rules for grey faces."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from places import PARITY, SHARED

from infra.weights.checkpoint import fitting, load_state_dict
from infra.weights.errors import WeightsError
from tasks.models.restorers import codeformer

needs_fixtures = pytest.mark.skipif(not PARITY.is_dir(), reason=f"no parity fixtures at {PARITY}")
CASES = {
    "a": [(0, True), (0.5, True), (1, True), (0, False), (0.5, False)],
    "real": [(0.5, True), (1, True)],
    "grey": [(0.5, True)],
    "small": [(0.5, True)],
}


@pytest.fixture(scope="module")
def io():
    with np.load(PARITY / "codeformer_io.npz") as file:
        return {key: file[key] for key in file.files}


@pytest.fixture(scope="module")
def network(recipe):
    facts, keys = (json.loads((PARITY / f"codeformer{kind}.json").read_text()) for kind in ("", "_keys"))
    gains = facts["gain_by_key_prefix"]
    weights = {}
    for prefix in ("generator.", "fuse_convs_dict.", ""):
        chosen = {key: torch.empty(shape) for key, shape in keys.items() if key.startswith(prefix)}
        weights = recipe.fill(chosen, facts["seed"], gains[prefix]) | weights
    return codeformer.build_codeformer(weights)


def picture(case, recipe):
    import cv2

    if case == "a":
        return recipe.image(512, 512, 51)
    if case == "small":
        return np.ascontiguousarray(cv2.resize(recipe.image(300, 400, 52), (512, 512)))
    name = {"real": "sfhq_pt2_00002871", "grey": "gpo_B000287"}[case]
    rgb = np.asarray(Image.open(SHARED / "data" / "hq" / f"{name}.png").convert("RGB"))
    if case == "real":
        return rgb
    luma = np.rint(rgb @ [0.2989, 0.587, 0.114]).clip(0, 255)[..., None]
    return (luma + np.random.RandomState(77).randint(-2, 3, rgb.shape)).clip(0, 255).astype(np.uint8)


def tensor(pixels):
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None].float() / 255


def crop(image):
    """Where the fixtures keep every pixel: (128, 128, 3)."""
    return image[0, :, 192:320, 192:320].permute(1, 2, 0).numpy()


@needs_fixtures
@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_equals_the_original(case, io, network, recipe, relative):
    rgb = tensor(picture(case, recipe))
    encoded, kept = network.encode(rgb * 2 - 1)
    assert relative(encoded[0], io[f"{case}_lq_feat"]) < 1e-4
    logits = network.logits(encoded)
    assert relative(logits[0, ::16], io[f"{case}_logits_every16"]) < 1e-4
    sure = io[f"{case}_margin"] > 1e-3
    assert (logits.argmax(2)[0].numpy() == io[f"{case}_codes"])[sure].all()
    looked_up = network.look_up(torch.from_numpy(io[f"{case}_codes"]).long()[None])
    for fidelity, adain in CASES[case]:
        name = f"{case}_w{fidelity}_{'adain' if adain else 'plain'}"
        features = codeformer.adain_of(looked_up, encoded) if adain else looked_up
        assert relative(features[0], io[f"{case}_quant_{'adain' if adain else 'plain'}"]) < 1e-4
        out = network.generate(features, kept, fidelity)
        assert relative(out[0, :, ::8, ::8], io[f"{name}_out_every8"]) < 1e-4
        assert relative(out[0, :, 240:272, 240:272], io[f"{name}_out_crop"]) < 1e-4
        levels = codeformer.levels(out * 0.5 + 0.5)
        assert np.abs(crop(levels) - io[f"{name}_u8_crop"]).max() <= 1
    if case == "grey":
        restored = codeformer.greyed(levels, codeformer.levels(rgb))
        assert relative(crop(restored)[..., 0], io[f"{name}_grey_f64_crop"]) < 1e-3, "a level may flip before"


@needs_fixtures
def test_what_is_saved_is_the_originals_and_grey_stays_grey(io, network, recipe):
    with torch.inference_mode():
        restored = codeformer.restore(network, tensor(picture("grey", recipe)), 0.5)
    assert np.abs(crop(restored) * 255 - io["grey_w0.5_adain_saved_crop"]).max() <= 1
    assert float((restored - restored.mean(1, keepdim=True)).abs().max()) * 255 <= 1


def small(seed=0):
    """A network of the real depth for faces of 64 pixels, in the published layout."""
    torch.manual_seed(seed)
    return codeformer.CodeFormer(codeformer.CodeFormerSizes(32, 8, 32, 16, 1, tokens=4))


@pytest.fixture(scope="module")
def tiny():
    return small().eval()


@pytest.fixture(scope="module")
def face():
    coarse = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(coarse, (64, 64), mode="bilinear")


@torch.inference_mode()
def test_the_knob_and_the_statistics_act(tiny, face, relative):
    results = [tiny(face * 2 - 1, fidelity, adain=adain) for fidelity, adain in ((0, True), (1, True), (1, False))]
    assert min(relative(results[0], results[1]), relative(results[2], results[1])) > 0.05


@torch.inference_mode()
def test_a_result_is_whole_levels_within_the_range(tiny, face):
    restored = codeformer.restore(tiny, face, 1.0) * 255
    assert torch.equal(restored, restored.round().clamp(0, 255))


def test_grey_is_judged_by_how_differences_vary_and_each_face_for_itself():
    levels = torch.randint(0, 256, (2, 1, 64, 64)).double().expand(2, 3, 64, 64).clone()
    levels[0, 0] += 40  # a constant cast is no colour
    levels[1, 0] += 10 * torch.randn(64, 64)
    assert codeformer.is_grey(levels).tolist() == [True, False]


def test_sizes_are_read_off_the_file(tmp_path):
    torch.save({"params_ema": small().state_dict()}, tmp_path / "codeformer.pth")
    weights = load_state_dict(tmp_path / "codeformer.pth", expect="CodeFormer")
    assert codeformer.CodeFormerSizes.of(weights) == codeformer.CodeFormerSizes(32, 8, 32, 16, 1, 4)
    assert codeformer.build_codeformer(weights).training is False


@pytest.mark.parametrize("lost", ["quantize.embedding.weight", "generator.blocks.3.conv1.weight"])
def test_a_file_that_lacks_something_is_refused_by_name(tmp_path, lost):
    weights = small().state_dict()
    del weights[lost]
    path = tmp_path / "codeformer.pth"
    with pytest.raises(WeightsError, match=rf"expected CodeFormer.*{lost}"), fitting(path, expect="CodeFormer"):
        codeformer.build_codeformer(weights)
