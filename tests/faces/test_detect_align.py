"""Detection and alignment: the right faces, brought to the template, with every left-out face accounted for."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from places import SHARED
from pydantic import ValidationError
from skimage import data

from tasks.archive import books
from tasks.faces import geometry
from tasks.faces.alignment import Alignment
from tasks.faces.yunet import Found, YuNet, apart
from tasks.pictures.codec import decode
from tasks.pictures.picture import Picture
from tasks.stage import Batch
from tasks.stages.detect_align import DetectAlign, DetectAlignSettings, fitted

SHARED = SHARED / "data"
YUNET = SHARED / "weights" / "yunet_n_640_640.onnx"
needs_yunet = pytest.mark.skipif(not YUNET.is_file(), reason=f"no YuNet weights at {YUNET}")
needs_samples = pytest.mark.skipif(not (SHARED / "samples").is_dir(), reason="no sample pictures beside the project")
NONE = Batch([], {})


def picture_of(levels):
    return Picture((levels / np.float32(255)).astype(np.float32))


ASTRONAUT = picture_of(data.astronaut())


def stage_with(found, **settings):
    """The stage with a detector that always finds the same."""
    stage = DetectAlign(DetectAlignSettings(**{"detector": "compact", **settings}))
    stage._find = lambda rgb: list(found)
    return stage


def face_at(x, y, side=100.0, confidence=0.9):
    points = (geometry.TEMPLATE - geometry.SIDE / 2) * (side / 300) + [x, y]
    return Found((x - side / 2, y - side / 2, side, side), points, confidence)


def yunet_stage(**settings):
    stage = DetectAlign(DetectAlignSettings(**settings), {"yunet": YUNET})
    stage.load("cpu", "float32")
    return stage


def test_the_crop_holds_the_landmarks_where_the_template_has_them():
    result = stage_with([face_at(200, 150)]).run(ASTRONAUT, NONE)
    face = result.faces[0]
    assert result.outcome.metrics == {"faces": 1}
    assert face.images["aligned"].shape == (512, 512, 3)
    assert face.images["aligned"].dtype == np.float32
    matrix = np.array(face.outcome.detail["matrix"])
    placed = geometry.transform(np.array(face.outcome.detail["points"]), matrix)
    assert np.allclose(placed, geometry.TEMPLATE, atol=0.05)
    assert face.outcome.detail["scale"] == pytest.approx(3, rel=1e-3)
    assert face.outcome.metrics == {"face_px": 100, "confidence": 0.9}


def test_what_is_said_of_a_face_can_be_read_again():
    (face,) = stage_with([face_at(200, 150)]).run(ASTRONAUT, NONE).faces
    told = json.loads(json.dumps(face.outcome.detail))
    assert list(told) == ["detector", "box", "points", "matrix", "scale"]
    read = Alignment.from_detail(told)
    assert read.to_detail() == told
    assert read.matrix.shape == (2, 3)
    assert read.box == (150, 100, 100, 100)


def test_faces_come_largest_first_and_the_left_out_are_counted():
    found = [face_at(100, 100, 60), face_at(300, 100, 120), face_at(300, 300, 10), face_at(100, 300, 90)]
    result = stage_with(found, max_faces=2, min_face_px=20).run(ASTRONAUT, NONE)
    assert [f.outcome.metrics["face_px"] for f in result.faces] == [120, 90]
    detail = result.outcome.detail
    assert (detail["found"], detail["too_small"], detail["left_out"]) == (4, 1, 1)


@pytest.mark.parametrize(
    ("found", "shape", "reason"),
    [
        ([], (200, 200, 3), "no_face"),
        ([face_at(100, 100, 9)], (200, 200, 3), "face_too_small"),
        ([face_at(100, 100, 90)], (1, 1, 3), "too_small"),
        ([face_at(100, 100, 90)], (2, 30_000, 3), "too_small"),
    ],
)
def test_pictures_without_a_face_to_restore_are_left_alone(found, shape, reason):
    result = stage_with(found).run(Picture(np.zeros(shape, np.float32)), NONE)
    assert result.faces == []
    assert (result.outcome.state, result.outcome.reason_code) == ("done", reason)
    assert books.outcome_of("done", reason) == "left_alone"
    assert result.outcome.metrics == {"faces": 0}


def test_landmarks_that_determine_no_alignment_are_left_out():
    flat = Found((10, 10, 50, 50), np.full((5, 2), 30.0), 0.9)
    result = stage_with([flat], min_eye_px=0).run(ASTRONAUT, NONE)
    assert result.faces == []
    assert result.outcome.detail["left_out"] == 1


def test_a_picture_larger_than_opencv_can_warp():
    pixels = np.zeros((300, 40_000, 3), np.float32)
    pixels[:, 35_000:35_100] = cv2.resize(ASTRONAUT.pixels, (100, 300), interpolation=cv2.INTER_AREA)
    small, wide = (
        stage_with([face_at(x, 150)]).run(Picture(pixels[:, start:]), NONE).faces[0]
        for x, start in ((1050, 34_000), (35_050, 0))
    )
    assert np.abs(small.images["aligned"] - wide.images["aligned"]).mean() < 2e-3
    assert np.allclose(
        geometry.transform(np.array(wide.outcome.detail["points"]), np.array(wide.outcome.detail["matrix"])),
        geometry.TEMPLATE,
        atol=0.1,
    )


@pytest.mark.parametrize(("height", "width"), [(512, 512), (256, 256), (1024, 1024), (700, 300)])
def test_aligned_pictures_are_not_searched_but_fitted(height, width):
    picture = Picture(cv2.resize(ASTRONAUT.pixels, (width, height)))
    stage = DetectAlign(DetectAlignSettings(detector="none"))
    stage.load("cpu", "float32")
    face = stage.run(picture, NONE).faces[0]
    assert face.images["aligned"].shape == (512, 512, 3)
    assert face.outcome.detail["detector"] == "none"
    assert face.outcome.detail["box"] == [0, 0, width, height]
    if (height, width) == (512, 512):
        assert np.array_equal(face.images["aligned"], picture.pixels)
        assert face.outcome.detail["matrix"] == [[1, 0, 0], [0, 1, 0]]
    assert np.array_equal(face.images["aligned"], fitted(picture.pixels))


def test_auto_means_yunet_where_its_weights_are_and_compact_elsewhere():
    settings = DetectAlignSettings()
    assert DetectAlign.weights_needed(settings) == ("compact_landmarks",)
    assert DetectAlign.weights_optional(settings) == ("yunet",)
    assert DetectAlign(settings, {"yunet": YUNET}).detector == "yunet"
    assert DetectAlign(settings, {"compact_landmarks": YUNET}).detector == "compact"


def test_weights_follow_the_detector():
    needed = {name: DetectAlign.weights_needed(DetectAlignSettings(detector=name)) for name in ("none", "retinaface")}
    assert needed == {"none": (), "retinaface": ("retinaface_resnet50",)}
    assert DetectAlign.weights_optional(DetectAlignSettings(detector="yunet")) == ()


@pytest.mark.parametrize("wrong", [{"min_face_px": 0}, {"confidence": 1.5}, {"detector": "haar"}, {"size": 3}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        DetectAlignSettings(**wrong)


def test_the_same_face_seen_twice_is_one():
    kept = apart([face_at(100, 100, confidence=0.7), face_at(110, 95, confidence=0.9), face_at(400, 100)])
    assert [(f.confidence, f.box[0]) for f in kept] == [(0.9, 60), (0.9, 350)]


def test_smoothing_before_reduction_is_a_setting():
    big = Picture(cv2.resize(ASTRONAUT.pixels, (1536, 1536), interpolation=cv2.INTER_NEAREST))
    noisy = Picture(big.pixels + np.random.default_rng(0).normal(0, 0.1, big.pixels.shape).astype(np.float32))
    crops = [
        stage_with([face_at(670, 350, 600)], antialias=on).run(noisy, NONE).faces[0].images["aligned"]
        for on in (True, False)
    ]
    rough = [np.abs(np.diff(crop, axis=1)).mean() for crop in crops]
    assert rough[0] < 0.6 * rough[1]


def test_the_compact_detector_is_loaded_and_asked(tmp_path):
    """An untrained network knows no face, but asked to doubt nothing it returns what the cascade proposes."""
    import torch

    from tasks.models.compact.table import build, save_compact

    torch.manual_seed(0)
    save_compact(build("landmarks"), "landmarks", {}, tmp_path / "net.safetensors")
    counts = []
    for confidence in (0.0, 1.0):
        settings = DetectAlignSettings(detector="compact", confidence=confidence, min_eye_px=0)
        stage = DetectAlign(settings, {"compact_landmarks": tmp_path / "net.safetensors"})
        stage.load("cpu", "float32")
        result = stage.run(ASTRONAUT, NONE)
        assert result.outcome.detail["detector"] == "compact"
        counts.append(result.outcome.detail["found"])
    assert counts[0] > 0
    assert counts[1] == 0


def retina_rows(confidence):
    import torch

    row = [40.0, 60, 140, 180, confidence, *(geometry.TEMPLATE / 4).ravel().tolist()]
    return lambda net, planes, threshold: [torch.tensor([row] if confidence > threshold else []).reshape(-1, 15)]


def test_retinaface_faces_come_back_at_the_pictures_scale(monkeypatch):
    import torch

    monkeypatch.setattr("infra.weights.load_into", lambda net, file, expect: torch.nn.Identity())
    monkeypatch.setattr("tasks.models.faces.retinaface.RetinaFace", lambda body: None)
    monkeypatch.setattr("tasks.models.faces.retinaface.detect", retina_rows(0.98))
    for confidence, count in ((None, 1), (0.99, 0)):
        settings = DetectAlignSettings(detector="retinaface", confidence=confidence, working_side=320)
        stage = DetectAlign(settings, {"retinaface_resnet50": Path("nowhere")})
        stage.load("cpu", "float32")
        faces = stage.run(Picture(np.zeros((640, 640, 3), np.float32)), NONE).faces
        assert len(faces) == count
        if faces:
            assert faces[0].outcome.detail["box"] == [80, 120, 200, 240]
            assert np.allclose(faces[0].outcome.detail["points"], geometry.TEMPLATE / 2, atol=1e-2)


@needs_yunet
class TestYuNet:
    def test_finds_the_astronaut_wherever_the_picture_is_turned_or_scaled_to(self):
        stage = yunet_stage(detector="auto")
        for size in (128, 512, 2048):
            picture = Picture(cv2.resize(ASTRONAUT.pixels, (size, size), interpolation=cv2.INTER_AREA))
            result = stage.run(picture, NONE)
            assert result.outcome.metrics == {"faces": 1}
            assert result.faces[0].outcome.detail["detector"] == "yunet"
            left, top, width, height = np.array(result.faces[0].outcome.detail["box"]) * 512 / size
            assert abs(left + width / 2 - 222) < 8
            assert abs(top + height / 2 - 118) < 12

    def test_finds_nothing_in_pictures_without_faces(self):
        stage = yunet_stage(detector="yunet")
        for name in ("coffee", "chelsea", "rocket", "brick", "text"):
            levels = getattr(data, name)()
            levels = np.dstack([levels] * 3) if levels.ndim == 2 else levels
            assert stage.run(picture_of(levels), NONE).outcome.reason_code == "no_face", name

    def test_landmarks_are_steadier_than_one_detection(self):
        """Scaled copies of one picture: the spread of landmarks at least a quarter below that of single detections."""
        network = YuNet(YUNET, 0.6, 1536)
        spreads = {}
        for kind in ("averaged", "single"):
            points = []
            for size in (300, 340, 380, 430, 490, 560):
                bgr = cv2.resize(data.astronaut()[..., ::-1], (size, size), interpolation=cv2.INTER_AREA)
                found = network.faces(bgr[..., ::-1]) if kind == "averaged" else network._search(bgr, 1.0)
                points.append(max(found, key=lambda f: f.confidence).points * 512 / size)
            spreads[kind] = np.std(points, axis=0).mean()
        assert spreads["averaged"] < 0.75 * spreads["single"]

    def test_settings_that_only_the_detector_reads_change_what_is_found(self):
        faces = np.zeros((700, 2600, 3), np.uint8)
        for place, side in enumerate((512, 256, 60)):
            faces[:side, 600 * place : 600 * place + side] = cv2.resize(data.astronaut(), (side, side))
        counts = {
            side: len(yunet_stage(detector="yunet", working_side=side).run(picture_of(faces), NONE).faces)
            for side in (320, 2048)
        }
        assert counts[320] < counts[2048]
        strict = yunet_stage(detector="yunet", confidence=0.999)
        assert strict.run(ASTRONAUT, NONE).outcome.reason_code == "no_face"
        small = yunet_stage(detector="yunet", min_face_px=300)
        assert small.run(ASTRONAUT, NONE).outcome.reason_code == "face_too_small"
        wide = yunet_stage(detector="yunet", min_eye_px=200)
        assert wide.run(ASTRONAUT, NONE).outcome.reason_code == "face_too_small"

    @needs_samples
    def test_sample_pictures(self):
        """Faces counted by eye: every one of the groups', and no false ones (sample 16 has 3, and a raised hand)."""
        expected = {"13": 4, "15": 29, "16": 3, "18": 1, "24": 0, "25": 2, "26": 0}
        stage = yunet_stage(detector="yunet")
        counts = {}
        for path in sorted((SHARED / "samples").glob("[0-2]*")):
            if path.name[:2] in expected:
                counts[path.name[:2]] = len(stage.run(decode(path.read_bytes()), NONE).faces)
        assert counts == expected
