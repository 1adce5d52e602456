"""The mean of YuNet over five scales: what it averages, what it keeps, what it needs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage
from places import SHARED

from tasks.training.data import Face
from tasks.training.loop import TrainSettings, faces_of
from tasks.training.points import EYE_DISTANCES, _mean_points, with_mean_points

YUNET = SHARED / "data/weights/yunet_n_640_640.onnx"
ROUGH = np.array([(203.0, 104), (247, 104), (225, 128), (207, 147), (243, 147)])


class Detector:
    """Sees one face, off by so many pixels of the picture as it is given; and another face far away."""

    def __init__(self, off):
        self.off, self.given = iter(off), []

    def setInputSize(self, size):  # noqa: N802
        self.size = size

    def detect(self, picture):
        assert picture.shape[1::-1] == self.size
        scale = np.array(self.size) / 512
        self.given.append(44 * scale[0])
        off = next(self.off)
        if off is None:
            return 0, None
        faces = [((ROUGH + shift) * scale).ravel() for shift in (200, off)]
        return 2, np.array([[0] * 4 + face.tolist() + [0.9] for face in faces], np.float32)


@pytest.fixture
def face():
    picture = cv2.imread(str(Path(skimage.__file__).parent / "data" / "astronaut.png"))[..., ::-1]
    return Face("a", np.zeros((512, 512, 3), np.uint8), np.ones((512, 512), np.uint8), picture, ROUGH)


def test_five_sizes_are_looked_at_and_the_nearest_faces_averaged(face):
    detector = Detector([1, 2, None, 3, 4])
    assert np.allclose(_mean_points(face, detector), ROUGH + 2.5, atol=1e-3)
    assert np.allclose(detector.given, EYE_DISTANCES, rtol=0.02)


def test_a_face_that_is_never_seen_keeps_its_points(face):
    assert _mean_points(face, Detector([None] * 5)) is ROUGH
    assert _mean_points(face, Detector([100] * 5)) is ROUGH, "another face is not this one"
    assert _mean_points(replace(face, photograph=None), Detector([])) is ROUGH


def test_without_yunet_it_says_where_to_get_it(face, tmp_path):
    with pytest.raises(FileNotFoundError, match="models pull yunet"):
        with_mean_points([face], tmp_path / "none.onnx")


@pytest.mark.skipif(not YUNET.exists(), reason="the shared YuNet is not here")
def test_the_mean_hardly_depends_on_where_the_points_were(face, tmp_path):
    moved = replace(face, points=ROUGH + np.array([5, -5]))
    one, other = (each.points for each in with_mean_points([face, moved], YUNET))
    assert not np.array_equal(one, ROUGH)
    assert np.linalg.norm(one - other, axis=1).max() < 0.02 * 44
    cv2.imwrite(str(tmp_path / "a.png"), face.photograph)
    assert faces_of(TrainSettings(data=tmp_path, out=tmp_path, yunet=YUNET), "fit")[0].points is None
