"""The degradation model: seeded, bounded, and every knob of it does something."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from tasks.archive.degradation import (
    MEDIUM,
    MILD,
    PRESETS,
    SEVERE,
    VERY_SEVERE,
    Degradation,
    degrade,
    sample_degradation,
)

BASE = Degradation(
    haze=0.3,
    fading=0.3,
    cast=0.3,
    stains=2,
    scratches=2,
    blur_sigma=2,
    blur_aspect=0.5,
    motion=8,
    downscale=2,
    noise=6,
    poisson=0.5,
    jpeg=60,
)
EXTREMES = {
    "haze": (0.0, 1.0),
    "haze_light": (0.4, 1.0),
    "fading": (0.0, 1.0),
    "cast": (0.0, 1.0),
    "cast_hue": (0.0, 180.0),
    "stains": (0, 20),
    "scratches": (0, 40),
    "grey": (False, True),
    "blur_sigma": (0.0, 15.0),
    "blur_aspect": (0.1, 1.0),
    "blur_angle": (0.0, 90.0),
    "motion": (0.0, 60.0),
    "motion_angle": (0.0, 90.0),
    "downscale": (1.0, 16.0),
    "down_interpolation": ("nearest", "area"),
    "up_interpolation": ("nearest", "lanczos"),
    "noise": (0.0, 60.0),
    "poisson": (0.0, 4.0),
    "grey_noise": (False, True),
    "jpeg": (10, 95),
    "then": (None, MEDIUM),
}


@pytest.fixture(scope="module")
def picture():
    rng = np.random.default_rng(3)
    smooth = cv2.resize(rng.random((12, 10, 3)).astype(np.float32), (80, 96), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + 0.05 * rng.standard_normal(smooth.shape), 0, 1).astype(np.float32)


def psnr(a, b):
    return -10 * np.log10(np.mean((a - b) ** 2))


def test_every_knob_is_tried():
    assert set(EXTREMES) == set(Degradation.model_fields)


@pytest.mark.parametrize("knob", EXTREMES)
def test_the_extremes_of_a_knob_differ(picture, knob):
    low, high = (degrade(picture, BASE.model_copy(update={knob: value}), 5) for value in EXTREMES[knob])
    assert np.abs(low - high).mean() > 0.5 / 255


@pytest.mark.parametrize("name", PRESETS)
def test_the_same_seed_gives_the_same_bytes(picture, name):
    first, again = (degrade(picture, PRESETS[name], 11) for _ in range(2))
    assert first.tobytes() == again.tobytes()
    assert first.shape == picture.shape
    assert first.dtype == np.float32
    assert first.min() >= 0
    assert first.max() <= 1


def test_another_seed_gives_other_noise(picture):
    assert not np.array_equal(degrade(picture, MEDIUM, 1), degrade(picture, MEDIUM, 2))


def test_the_defaults_do_nothing(picture):
    assert np.array_equal(degrade(picture, Degradation(), 0), picture)


def test_the_input_is_not_written_to(picture):
    before = picture.copy()
    degrade(picture, BASE, 0)
    assert np.array_equal(before, picture)


def test_the_presets_grow_worse(picture):
    large = cv2.resize(picture, (256, 256))
    losses = [psnr(degrade(large, preset, 0), large) for preset in (MILD, MEDIUM, SEVERE, VERY_SEVERE)]
    assert losses == sorted(losses, reverse=True)


def test_the_presets_are_those_of_the_published_table():
    table = {name: (p.downscale, p.blur_sigma, p.noise, p.jpeg) for name, p in PRESETS.items() if p.jpeg}
    assert table == {
        "mild": (2, 0.5, 5, 75),
        "medium": (4, 1.5, 10, 50),
        "severe": (8, 3, 20, 30),
        "very_severe": (16, 4, 20, 30),
    }


def test_sampling_is_seeded_and_follows_severity(picture):
    assert sample_degradation(4, 0.5) == sample_degradation(4, 0.5)
    assert sample_degradation(4) != sample_degradation(5)
    light = np.mean([sample_degradation(s, 0.0).downscale for s in range(30)])
    heavy = np.mean([sample_degradation(s, 1.0).downscale for s in range(30)])
    assert light < 1.5 < 10 < heavy
    assert any(sample_degradation(s).then for s in range(20)), "some are of second order"


def test_ageing_can_be_switched_off():
    aged = [sample_degradation(s, ageing=0.0) for s in range(50)]
    assert all(d.haze == d.fading == d.cast == d.stains == d.scratches == 0 and not d.grey for d in aged)


@pytest.mark.parametrize("shape", [(1, 1, 3), (7, 300, 3)])
def test_odd_sizes_survive(shape):
    image = np.full(shape, 0.5, np.float32)
    assert degrade(image, VERY_SEVERE, 0).shape == shape


@pytest.mark.parametrize("wrong", [np.zeros((4, 4), np.float32), np.zeros((4, 4, 3), np.uint8)])
def test_another_kind_of_image_is_refused(wrong):
    with pytest.raises(ValueError, match="H×W×3 float32"):
        degrade(wrong, MILD, 0)


def test_a_strength_out_of_range_is_refused():
    with pytest.raises(ValidationError, match="less than or equal to 16"):
        Degradation(downscale=17)
