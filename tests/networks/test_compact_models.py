"""The small networks: shapes, ranges, storage, and what the shipped weights can do."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
from places import WEIGHTS, aligned_astronaut
from safetensors.torch import save_file

from tasks.archive.degradation import MEDIUM, MILD, SEVERE, degrade
from tasks.models.compact.faces import LandmarkNet, both_ways, box_of_points, landmark_crop
from tasks.models.compact.quality import score_of
from tasks.models.compact.restorers import resize
from tasks.models.compact.table import NETWORKS, build, load_compact, save_compact

PICTURES = [name for name in NETWORKS if name not in {"landmarks", "quality", "identity"}]
SHIPPED = sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))


@pytest.fixture(scope="module")
def portrait():
    """A smooth, face-coloured picture with some structure, 1×3×512×512."""
    torch.manual_seed(0)
    coarse = torch.rand(1, 3, 9, 9) * 0.4 + 0.3
    return torch.nn.functional.interpolate(coarse, (512, 512), mode="bicubic", align_corners=False).clamp(0, 1)


@pytest.fixture(scope="module")
def astronaut():
    """scikit-image's astronaut, 1×3×512×512."""
    return torch.from_numpy(aligned_astronaut().transpose(2, 0, 1).copy())[None]


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_network_keeps_shape_and_range(name, portrait):
    net = build(name).eval()
    with torch.inference_mode():
        made = net(torch.cat([portrait, 1 - portrait]))
    assert made.shape == (2, 3, 512, 512)
    assert made.min() >= 0
    assert made.max() <= 1


@pytest.mark.parametrize("name", ["restorer", "severe"])
def test_an_untrained_restorer_changes_nothing(name, portrait):
    with torch.inference_mode():
        assert torch.equal(build(name)(portrait), portrait)


def test_quality_is_a_number_in_range(portrait):
    with torch.inference_mode():
        score = build("quality")(torch.cat([portrait, portrait * 0]))
    assert score.shape == (2,)
    assert ((score >= 0) & (score <= 1)).all()


def test_quality_takes_pictures_of_other_sizes(portrait):
    with torch.inference_mode():
        assert build("quality").eval()(portrait[..., :130, :201]).shape == (1,)


def test_the_score_is_the_psnr_of_the_guessed_errors_and_what_is_not_real_does_not_count():
    errors = torch.full((1, 16, 16), -3.0)
    assert float(score_of(errors)) == pytest.approx((30 - 16) / 26, abs=0.01)
    real = torch.ones_like(errors)
    errors[:, :4], real[:, :4] = -1.0, 0
    assert float(score_of(errors, real)) == pytest.approx((30 - 16) / 26, abs=0.01)
    assert float(score_of(errors)) < 0.3


def test_identity_is_a_unit_vector_that_light_and_colour_leave_alone(portrait):
    net, crops = build("identity").eval(), resize(torch.cat([portrait, portrait.flip(3)]), 112)
    with torch.inference_mode():
        vectors, trust = net(crops)
        greyer, _ = net(0.6 * crops.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1) + 0.2)
    assert (vectors.shape, trust.shape) == ((2, 160), (2,))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(net.agreement(vectors, greyer).mean(dim=1), (vectors * greyer).sum(dim=1))
    same, other = (vectors[0] @ greyer[0]), (vectors[0] @ vectors[1])
    assert same > max(0.9, other)


def test_landmarks_lie_in_the_crop():
    net = LandmarkNet().eval()
    with torch.inference_mode():
        points, logit = net(torch.rand(3, 3, 64, 64))
    assert points.shape == (3, 5, 2)
    assert logit.shape == (3,)
    assert ((points > 0) & (points < 1)).all()


def test_a_crop_and_its_mirror_image_get_mirrored_points():
    torch.manual_seed(0)
    net, crops = LandmarkNet().eval(), torch.rand(3, 3, 64, 64)
    with torch.inference_mode():
        points, logits = both_ways(net, crops)
        other, same = both_ways(net, crops.flip(3))
    assert torch.allclose(logits, same, atol=1e-5)
    assert torch.allclose(points[:, 0, 0], 1 - other[:, 1, 0], atol=1e-5), "the left eye is the mirror's right"
    assert torch.allclose(points[:, 3, 1], other[:, 4, 1], atol=1e-5)


def test_the_crop_shares_the_centre_of_the_box():
    x, y, side = landmark_crop((10, 20, 40, 30))
    assert (x + side / 2, y + side / 2) == (30, 35)
    assert side == 60


def test_the_box_of_points_does_not_depend_on_where_and_how_large():
    points = np.array([(193.0, 239.9), (318.9, 240.2), (256.6, 314.0), (201.3, 371.4), (313.1, 371.2)])
    x, y, w, h = box_of_points(points)
    moved = box_of_points(points * 0.5 + (7, 9))
    assert np.allclose(moved, (x * 0.5 + 7, y * 0.5 + 9, w * 0.5, h * 0.5))
    assert x < 193
    assert x + w > 319
    assert y < 240
    assert y + h > 371


@pytest.mark.parametrize("name", ["dehaze", "skin_tone"])
def test_an_untrained_tone_network_changes_nothing(name, portrait):
    with torch.inference_mode():
        assert torch.equal(build(name)(portrait), portrait)


def test_a_change_of_tone_reaches_detail_that_the_reduced_picture_lacks(portrait):
    fine = (portrait + 0.02 * (torch.arange(512) % 2 * 2 - 1)).clamp(0, 1)
    given, net = fine * 0.4 + 0.3, build("dehaze").eval()
    small = resize(given, 64)
    mean, spread = small.mean(dim=(2, 3), keepdim=True), small.std(dim=(2, 3))
    with torch.inference_mode():
        net.everywhere.bias.copy_(torch.cat([torch.diag(spread[0]), torch.zeros(3, 1)], dim=1).flatten())
        made = net(given)
    assert torch.allclose(made, 2 * given - mean, atol=1e-5), "twice the contrast, to the last pixel"


@pytest.mark.parametrize("name", ["dehaze", "skin_tone"])
def test_a_tone_network_keeps_grey_pictures_grey_and_treats_both_sides_alike(name, portrait):
    torch.manual_seed(0)
    net = build(name).eval()
    torch.nn.init.normal_(net.leave.weight, std=0.05)
    torch.nn.init.normal_(net.everywhere.weight, std=0.5)
    with torch.inference_mode():
        made, grey = net(portrait), net(portrait.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1))
        assert torch.allclose(net(portrait.flip(3)).flip(3), made, atol=1e-5)
        assert (grey.amax(dim=1) - grey.amin(dim=1)).max() < 1e-5
        assert (made - portrait).abs().max() > 0.02, "otherwise there was nothing to see"


def test_a_tone_network_sees_dark_points_that_averaging_loses():
    torch.manual_seed(0)
    net = build("dehaze").eval()
    torch.nn.init.normal_(net.everywhere.weight, std=0.5)
    plain = torch.full((1, 3, 128, 128), 0.5)
    dotted = plain.clone()
    dotted[:, :, 65, 33] = 0
    dotted[:, :, 64:66, 32:34] += (0.5 - dotted[:, :, 64:66, 32:34]).mean()
    with torch.inference_mode():
        small = torch.nn.functional.avg_pool2d(dotted, 2)
        assert torch.allclose(small, torch.full_like(small, 0.5)), "the reduced picture shows none of it"
        assert (net.grid(dotted) - net.grid(plain)).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["dehaze", "skin_tone", "restorer"])
def test_a_correction_below_the_least_is_not_made(name, portrait):
    net = build(name, least=0.5).eval()
    with torch.inference_mode():
        for layer in (net.everywhere if name != "restorer" else net.leave,):
            layer.bias.fill_(0.01)
        assert torch.equal(net(portrait), portrait)


def test_a_mirrored_restorer_treats_both_sides_alike(portrait):
    torch.manual_seed(0)
    net = build("restorer", working=64, widths=[8, 8], blocks=[1, 1], fine=8, mirrored=True).eval()
    torch.nn.init.normal_(net.leave.weight, std=0.1)
    torch.nn.init.normal_(net.fine.leave.weight, std=0.1)
    with torch.inference_mode():
        assert torch.allclose(net(portrait.flip(3)).flip(3), net(portrait), atol=1e-5)
        assert not torch.equal(net(portrait), portrait)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_comes_back_from_its_file(name, tmp_path, portrait):
    net = build(name).eval()
    path = tmp_path / "net.safetensors"
    save_compact(net, name, {}, path)
    again = load_compact(path)
    assert type(again) is type(net)
    assert not again.training
    given = resize(portrait, {"landmarks": 64, "identity": 112}.get(name, 512))
    with torch.inference_mode():
        first, second = net(given), again(given)
    first, second = (first, second) if isinstance(first, torch.Tensor) else (first[0], second[0])
    assert torch.allclose(first, second, atol=0.02)


def test_a_configuration_is_read_from_the_file(tmp_path):
    path = tmp_path / "net.safetensors"
    save_compact(build("severe", working=64), "severe", {"working": 64}, path)
    assert load_compact(path).working == 64


def test_an_unknown_name_is_refused():
    with pytest.raises(KeyError, match="restorer"):
        build("restoror")


def test_a_file_without_a_name_is_refused(tmp_path):
    save_file({"x": torch.zeros(1)}, str(tmp_path / "x.safetensors"))
    with pytest.raises(ValueError, match="names no compact network"):
        load_compact(tmp_path / "x.safetensors")


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_leave_a_clean_face_nearly_alone(name, astronaut):
    if name not in PICTURES:
        pytest.skip("gives no picture")
    with torch.inference_mode():
        made = load_compact(WEIGHTS / f"{name}.safetensors")(astronaut)
    assert (made - astronaut).abs().mean() < 6 / 255


@pytest.mark.skipif("quality" not in SHIPPED, reason="quality.safetensors is not shipped")
def test_the_shipped_score_orders_the_levels_of_damage_and_blur_is_not_clean(astronaut):
    picture = astronaut[0].numpy().transpose(1, 2, 0).copy()
    spoiled = [picture, *(degrade(picture, level, 0) for level in (MILD, MEDIUM, SEVERE))]
    spoiled.append(cv2.GaussianBlur(picture, (0, 0), 3))
    net = load_compact(WEIGHTS / "quality.safetensors")
    with torch.inference_mode():
        seen = torch.from_numpy(np.stack(spoiled).transpose(0, 3, 1, 2).copy())
        clean, mild, medium, severe, blurred = net(seen).tolist()
    assert clean > 0.8
    assert clean > mild > medium > severe
    assert blurred < 0.75


@pytest.mark.parametrize("name", ["dehaze", "skin_tone"])
def test_shipped_tone_weights_keep_a_grey_face_grey(name, astronaut):
    grey = astronaut.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    with torch.inference_mode():
        made = load_compact(WEIGHTS / f"{name}.safetensors")(grey)
    assert (made.amax(dim=1) - made.amin(dim=1)).max() < 0.5 / 255


@pytest.mark.parametrize("warmth", [0.05, 0.12])
def test_warm_light_on_a_face_is_turned_neither_cold_nor_purple(warmth, astronaut):
    warm = astronaut * torch.tensor([0.0, -warmth, -2.6 * warmth]).exp()[None, :, None, None]
    with torch.inference_mode():
        made = load_compact(WEIGHTS / "skin_tone.safetensors")(warm)
    red, green, blue = (
        (made / astronaut.clamp(min=0.02))[0, :, 230:400, 180:330].flatten(1).median(dim=1).values.tolist()
    )
    assert max(red, green, blue) < 1.06, "no skin is made lighter than it was"
    assert blue < 1.03 * red, "nor colder"
    assert green > 0.96 * (red * blue) ** 0.5, "nor more purple"


def test_shipped_weights_are_small_and_listed_with_their_sums():
    import hashlib

    files = sorted(WEIGHTS.glob("*.safetensors"))
    assert sum(path.stat().st_size for path in files) < 25_000_000
    card = (WEIGHTS / "MODEL_CARD.md").read_text(encoding="utf-8") if files else ""
    missing = [p.name for p in files if hashlib.sha256(p.read_bytes()).hexdigest() not in card]
    assert missing == []


def test_the_shipped_names_are_those_that_the_files_state():
    from safetensors import safe_open

    for path in WEIGHTS.glob("*.safetensors"):
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata()
        assert metadata["network"] == path.stem
        json.loads(metadata["config"])
