"""Detection without downloads: faces found, no face where there is none, and the group photographs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage
from places import SHARED, WEIGHTS

from tasks.faces.cascade import FaceBox, _strongest, detect_faces, propose
from tasks.models.compact.table import load_compact
from tasks.stages.detect_align import CONFIDENCE

LANDMARKS = WEIGHTS / "landmarks.safetensors"
SAMPLES = SHARED / "data" / "samples"
YUNET = SHARED / "data" / "weights" / "yunet_n_640_640.onnx"
ACCEPT = CONFIDENCE["compact"]
ASTRONAUT_EYES = np.array([(203.4, 103.6), (247.5, 104.4)])  # as YuNet sees them

needs_weights = pytest.mark.skipif(not WEIGHTS.exists(), reason="landmarks.safetensors is not shipped")


@pytest.fixture(scope="module")
def net():
    return load_compact(LANDMARKS)


def skimage_picture(name):
    folder = Path(skimage.__file__).parent / "data"
    found = next(p for p in (folder / f"{name}.png", folder / f"{name}.jpg") if p.exists())
    return np.ascontiguousarray(cv2.imread(str(found))[..., ::-1])


def test_the_cascade_proposes_the_astronaut_whatever_the_size():
    picture = skimage_picture("astronaut")
    for factor in (1, 4):
        large = cv2.resize(picture, None, fx=factor, fy=factor)
        centres = [((x + w / 2) / factor, (y + h / 2) / factor) for x, y, w, h in propose(large)]
        assert any(np.hypot(x - 224, y - 118) < 25 for x, y in centres)


def test_a_picture_smaller_than_a_face_has_no_proposal():
    assert propose(np.zeros((20, 300, 3), np.uint8)) == []


def test_another_kind_of_picture_is_refused():
    with pytest.raises(ValueError, match="8-bit RGB"):
        detect_faces(np.zeros((64, 64), np.uint8), None, ACCEPT)


def test_of_boxes_that_share_a_place_the_best_stays():
    points = np.zeros((5, 2))
    boxes = [FaceBox(x, 0, 10, 10, score, points) for x, score in ((0, 0.6), (2, 0.9), (30, 0.5))]
    assert [face.score for face in _strongest(boxes)] == [0.9, 0.5]


@needs_weights
def test_the_astronaut_is_found_with_her_points(net):
    (face,) = detect_faces(skimage_picture("astronaut"), net, ACCEPT)
    assert np.linalg.norm(face.points[:2] - ASTRONAUT_EYES, axis=1).max() < 0.15 * 44
    left, right, nose, mouth_left, mouth_right = face.points
    assert left[0] < nose[0] < right[0]
    assert mouth_left[0] < mouth_right[0]
    assert left[1] < nose[1] < mouth_left[1]
    assert 0.5 < face.score <= 1


@needs_weights
@pytest.mark.parametrize("name", ["coffee", "rocket", "chelsea", "motorcycle_right"])
def test_pictures_without_people_that_training_never_saw_have_no_face(net, name):
    assert detect_faces(skimage_picture(name), net, ACCEPT) == []


@needs_weights
@pytest.mark.slow
@pytest.mark.skipif(not YUNET.exists() or not SAMPLES.is_dir(), reason="the shared samples or YuNet are not here")
def test_most_of_what_yunet_finds_in_real_photographs_is_found(net):
    expected = found = false = 0
    for path in sorted(SAMPLES.iterdir()):
        picture = cv2.imread(str(path)) if path.suffix != ".csv" else None
        if picture is None:
            continue
        truths = yunet(picture)
        faces = detect_faces(np.ascontiguousarray(picture[..., ::-1]), net, ACCEPT)
        matched = {match(face, truths) for face in faces}
        expected += len(truths)
        found += len(matched - {None})
        false += sum(match(face, truths) is None for face in faces)
    assert expected > 80
    assert found >= 0.6 * expected
    assert false <= 1


def yunet(picture):
    detector = cv2.FaceDetectorYN.create(str(YUNET), "", picture.shape[1::-1], 0.6, 0.3, 5000)
    _, rows = detector.detect(picture)
    return [] if rows is None else [tuple(row[:4]) for row in rows]


def match(face, truths):
    x, y = face.x + face.w / 2, face.y + face.h / 2
    for index, (left, top, width, height) in enumerate(truths):
        if left < x < left + width and top < y < top + height and 0.5 < face.w / width < 2:
            return index
    return None
