"""Detail and structure count what a lens lost, and not what noise, grain, JPEG or dithering added."""

import cv2
import numpy as np
import pytest
from skimage import data

from tasks.measuring.formulas import detail, sharpness, structure

NOISES = ("plain", "noise", "grain", "jpeg", "dither")


@pytest.fixture(scope="module")
def face():
    """A face of 512 px on 8-bit levels."""
    crop = data.astronaut()[0:256, 96:352]
    return cv2.resize(crop, (512, 512), interpolation=cv2.INTER_CUBIC).astype(np.float32)


def written(levels, kind):
    """As it would be read back from a file with that flaw."""
    rng = np.random.default_rng(0)
    if kind == "noise":
        levels = levels + rng.normal(0, 3, levels.shape)
    if kind == "grain":
        levels = levels + rng.normal(0, 5, levels.shape[:2])[..., None]
    if kind == "dither":
        levels = np.round((levels + rng.uniform(-4, 4, levels.shape)) / 8) * 8
    whole = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    if kind == "jpeg":
        whole = cv2.imdecode(cv2.imencode(".jpg", whole, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], cv2.IMREAD_COLOR)
    return whole.astype(np.float32) / 255


def blurred(face, sigma):
    return cv2.GaussianBlur(face, (0, 0), sigma) if sigma else face


@pytest.mark.parametrize("kind", NOISES[1:])
def test_noise_hardly_counts(face, kind):
    soft = blurred(face, 2)
    assert detail(written(soft, kind)) == pytest.approx(detail(written(soft, "plain")), rel=0.25)
    assert structure(written(soft, kind)) == pytest.approx(structure(written(soft, "plain")), rel=0.1)


def test_sharpness_is_fooled_where_detail_is_not(face):
    ruined, clean = blurred(face, 8), written(face, "plain")
    assert sharpness(written(ruined, "grain")) > sharpness(clean)
    assert detail(written(ruined, "grain")) < detail(clean) / 1.5
    assert structure(written(ruined, "grain")) < structure(clean) / 2


@pytest.mark.parametrize("kind", NOISES)
def test_order_follows_the_blur(face, kind):
    found = [structure(written(blurred(face, sigma), kind)) for sigma in (0, 2, 4, 8)]
    assert found == sorted(found, reverse=True)


def test_a_flat_picture_has_numbers():
    assert np.isfinite(
        [detail(np.zeros((512, 512, 3), np.float32)), structure(np.ones((512, 512, 3), np.float32))]
    ).all()
