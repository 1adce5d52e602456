"""NIQE fitted on one's own portraits: what it learns from, what it says, and how it is asked for."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage
import torch
from places import PARITY, WEIGHTS

from infra.weights.store import WeightsStore
from tasks.archive.degradation import MEDIUM, MILD, SEVERE, degrade
from tasks.measuring.meter import Meter, resolve
from tasks.measuring.metrics import weights_of
from tasks.models.quality import iqa
from tasks.models.quality.niqe import _sharp, fit
from tasks.training.niqe import fit_niqe
from tasks.training.session import TrainingRefused, train_one

SHIPPED = WEIGHTS / "niqe_portraits.npz"


@pytest.fixture(scope="module")
def astronaut():
    levels = cv2.imread(str(Path(skimage.__file__).parent / "data" / "astronaut.png"))[..., ::-1]
    return levels.astype(np.float32) / 255


def tensor(picture):
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))


def views(picture, count):
    """Turned and mirrored: `count` pictures with the statistics of one."""
    turned = [np.rot90(picture, turn) for turn in range(4)]
    return [tensor(view) for view in (turned + [view[:, ::-1] for view in turned])[:count]]


def test_statistics_are_a_gaussian_over_the_features(astronaut):
    pristine = fit((view, torch.ones(512, 512)) for view in (*views(astronaut, 8), *views(astronaut, 1)))
    assert pristine.mean.shape == (36,)
    assert pristine.mean.dtype == pristine.covariance.dtype == torch.float64
    assert torch.isfinite(pristine.covariance).all()
    assert torch.linalg.eigvalsh(pristine.covariance).min() > -1e-8
    assert torch.allclose(pristine.covariance, pristine.covariance.T)


@pytest.mark.skipif(not PARITY.is_dir(), reason="the shared parity fixtures are not here")
def test_statistics_of_the_parity_pictures_are_finite():
    with np.load(PARITY / "niqe_images.npz") as pictures:
        images = [(tensor(picture / np.float32(255)), torch.ones(picture.shape[:2])) for picture in pictures.values()]
    pristine = fit(images * 3)
    assert torch.isfinite(pristine.mean).all()
    assert torch.isfinite(pristine.covariance).all()


def test_what_is_not_real_is_not_learnt_from(astronaut):
    real, everywhere = torch.ones(512, 512), torch.ones(512, 512)
    real[:, 400:] = 0
    other = astronaut.copy()
    other[:, 400:] = np.random.default_rng(0).random((512, 112, 3), np.float32)
    masked = _sharp(tensor(other), real)
    assert len(masked) > 1
    assert torch.equal(masked, _sharp(tensor(astronaut), real))
    assert len(_sharp(tensor(other), everywhere)) == 5, "the sharpest are those of noise, when that passes for real"


def test_blurred_parts_of_a_picture_are_not_learnt_from(astronaut):
    soft = astronaut.copy()
    soft[:192] = cv2.GaussianBlur(astronaut, (0, 0), 6)[:192]
    crisp = torch.ones(512, 512)
    crisp[:192] = 0
    assert torch.equal(_sharp(tensor(soft), torch.ones(512, 512)), _sharp(tensor(soft), crisp))


def test_too_few_blocks_are_refused(astronaut):
    with pytest.raises(ValueError, match="more than 36 sharp blocks"):
        fit([(tensor(astronaut), torch.zeros(512, 512))])


def test_the_shipped_statistics_order_the_levels_of_damage(astronaut):
    niqe = iqa.niqe_from(SHIPPED)
    spoiled = [astronaut, *(degrade(astronaut, level, 0) for level in (MILD, MEDIUM, SEVERE))]
    clean, mild, medium, severe = (float(niqe(tensor(picture)[None])) for picture in spoiled)
    assert 0 < clean < mild < medium < severe


def test_the_metric_needs_no_download(tmp_path, astronaut):
    store = WeightsStore(tmp_path)
    assert list(resolve(("niqe_portraits",), store, truth=False).present) == ["niqe_portraits"]
    Meter(("niqe_portraits",), {name: store.path(name) for name in weights_of(("niqe_portraits",))})


def test_a_folder_of_portraits_becomes_a_file_that_the_metric_reads(tmp_path, astronaut):
    for number, view in enumerate(views(astronaut, 8) + views(astronaut, 1)):
        levels = (view.numpy().transpose(1, 2, 0)[..., ::-1] * 255).astype(np.uint8)
        cv2.imwrite(str(tmp_path / f"{number}.png"), levels)
    fitted = fit_niqe(tmp_path, tmp_path / "out")
    assert fitted.faces == 9
    assert torch.isfinite(iqa.niqe_from(fitted.weights)(views(astronaut, 1)[0][None])).all()


def test_the_command_says_what_it_lacks(tmp_path):
    with pytest.raises(TrainingRefused, match="no settings"):
        train_one("niqe", [tmp_path], tmp_path, {"steps": 3})
    with pytest.raises(TrainingRefused, match="aligned 512"):
        train_one("niqe", [tmp_path], tmp_path, {})
