"""Alignment and pasting: facexlib's and AdaFace's results, and what no reference has: pixels that stay as they were."""

from __future__ import annotations

import importlib.util
import json
from time import perf_counter

import cv2
import numpy as np
import pytest
from places import PARITY

from tasks.faces import geometry
from tasks.faces.geometry import BORDER, TEMPLATE, DegenerateLandmarksError

needs_fixtures = pytest.mark.skipif(not PARITY.is_dir(), reason=f"parity fixtures are not at {PARITY}")
CASES = ("frontal", "tilted", "profile_outlier")
BORDER_BGR = (135, 133, 132)


@pytest.fixture(scope="module")
def facexlib():
    with np.load(PARITY / "facexlib_align_io.npz") as file:
        arrays = {key: file[key] for key in file.files}
    return arrays, json.loads((PARITY / "facexlib_align.json").read_text())["cases"]


@pytest.fixture
def picture():
    """A smooth picture, so that resampling loses little."""
    noise = np.random.default_rng(3).random((40, 60, 3), np.float32)
    return cv2.resize(noise, (600, 400), interpolation=cv2.INTER_CUBIC).clip(0, 1)


def parity_recipe():
    spec = importlib.util.spec_from_file_location("parity_recipe", PARITY / "recipe.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def landmarks_at(scale=0.5, angle=0.2, shift=(300.0, 200.0)):
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (TEMPLATE - 256) @ turn.T * scale + shift


def levels_apart(found, expected):
    return np.abs(found.astype(int) - expected.astype(int))


@needs_fixtures
@pytest.mark.parametrize("case", CASES)
class TestFacexlib:
    def test_matrix(self, facexlib, case):
        arrays, facts = facexlib
        matrix = geometry.face_matrix(arrays[f"{case}_landmarks"])
        assert np.abs(matrix - arrays[f"{case}_matrix"]).max() < 1e-4
        fitted = geometry.least_squares_similarity(arrays[f"{case}_landmarks"], TEMPLATE)
        assert np.abs(fitted - facts[case]["skimage_ls_matrix"]).max() < 1e-9

    def test_inverse(self, facexlib, case):
        arrays, facts = facexlib
        for scale in (1, 2):
            found = geometry.inverse(arrays[f"{case}_matrix"], scale)
            assert np.abs(found - facts[case][f"inverse_x{scale}"]).max() < 1e-9

    def test_crop(self, facexlib, case):
        arrays, _ = facexlib
        found = geometry.crop(arrays["image_bgr_u8"], arrays[f"{case}_matrix"], border=BORDER_BGR)
        apart = levels_apart(found, arrays[f"{case}_crop"])
        assert apart.max() <= 2
        assert (apart > 0).mean() <= 0.05

    def test_paste(self, facexlib, case):
        arrays, _ = facexlib
        face = 255 - arrays[f"{case}_crop"]
        found = geometry.paste_replace(arrays["image_bgr_u8"], face, arrays[f"{case}_matrix"])
        assert levels_apart(found, arrays[f"{case}_pasted_x1"]).max() <= 2

    def test_paste_into_an_enlarged_picture(self, facexlib, case):
        arrays, facts = facexlib
        face = 255 - arrays[f"{case}_crop"]
        found = geometry.paste_replace(arrays["image_bgr_u8"], face, arrays[f"{case}_matrix"], scale=2)
        expected = facts[case]["pasted_x2"]
        assert list(found.shape) == expected["shape"]
        assert found.mean() == pytest.approx(expected["mean"], abs=0.02)
        assert found.std() == pytest.approx(expected["std"], abs=0.02)


@needs_fixtures
def test_recognition_crop_is_adafaces():
    with np.load(PARITY / "adaface_io.npz") as file:
        io = {key: file[key] for key in file.files}
    assert np.abs(geometry.RECOGNITION_TEMPLATE - io["reference"]).max() < 1e-6
    matrix = geometry.recognition_matrix(io["landmarks"])
    assert np.abs(matrix - io["matrix"]).max() < 1e-9
    original = parity_recipe().image(512, 512, 21)
    found = geometry.crop(original, matrix, side=geometry.RECOGNITION_SIDE, border=(0, 0, 0))
    assert levels_apart(found, io["aligned_hq"]).max() <= 2


class TestAlignment:
    def test_template_lands_on_itself(self):
        assert np.allclose(geometry.face_matrix(TEMPLATE), np.eye(2, 3), atol=1e-6)
        assert np.allclose(geometry.face_matrix(TEMPLATE, side=256), np.eye(2, 3) / 2, atol=1e-6)

    def test_one_wrong_landmark_does_not_matter(self):
        points = landmarks_at()
        points[2] += 40
        found = geometry.transform(np.delete(points, 2, 0), geometry.face_matrix(points))
        assert np.abs(found - np.delete(TEMPLATE, 2, 0)).max() < 0.01

    def test_least_squares_may_mirror(self):
        mirrored = TEMPLATE * (-1, 1) + (512, 0)
        matrix = geometry.least_squares_similarity(mirrored, TEMPLATE)
        assert np.linalg.det(matrix[:, :2]) < 0
        assert np.allclose(geometry.transform(mirrored, matrix), TEMPLATE)

    @pytest.mark.parametrize("points", [np.full((5, 2), 100.0), np.full((5, 2), np.nan)])
    def test_points_that_determine_nothing_are_refused(self, points):
        for align in (geometry.face_matrix, geometry.recognition_matrix):
            with pytest.raises(DegenerateLandmarksError, match="five distinct points"):
                align(points)

    def test_coinciding_points_fit_nothing(self):
        with pytest.raises(DegenerateLandmarksError):
            geometry.least_squares_similarity(np.full((5, 2), 7.0), TEMPLATE)

    def test_outside_the_picture_is_the_border_colour(self, picture):
        crop = geometry.crop(picture, geometry.face_matrix(landmarks_at(shift=(30, 30))))
        assert np.allclose(crop[2, 2], BORDER)

    def test_antialiasing_removes_what_the_reduction_cannot_show(self):
        stripes = np.tile(np.array([0, 1], np.float32), (3000, 1500))[..., None].repeat(3, -1)
        matrix = geometry.face_matrix(landmarks_at(scale=4.1, angle=0.1, shift=(1500, 1500)))
        plain, smooth = (geometry.crop(stripes, matrix, antialias=flag)[100:400, 100:400] for flag in (False, True))
        assert plain.std() > 0.2
        assert smooth.std() < 0.05

    def test_antialiasing_leaves_geometry_and_enlargements_alone(self, picture):
        small = geometry.face_matrix(landmarks_at(scale=0.4))
        assert np.array_equal(geometry.crop(picture, small), geometry.crop(picture, small, antialias=True))
        large = geometry.face_matrix(landmarks_at(scale=1.5, shift=(300, 200)))
        difference = geometry.crop(picture, large) - geometry.crop(picture, large, antialias=True)
        assert np.abs(difference[100:300, 150:350]).mean() < 0.01


class TestMasks:
    def test_square_mask_rises_from_edge_to_middle(self):
        mask = geometry.square_mask(512, margin=0.02, feather=0.1)
        row = mask[256]
        assert row[:10].max() == 0
        assert row[70:-70].min() == 1
        assert (np.diff(row[:256]) >= 0).all()
        assert np.array_equal(mask, mask.T)
        assert not mask.flags.writeable

    def test_feather_and_margin_change_it(self):
        narrow, wide = (geometry.square_mask(512, feather=feather).sum() for feather in (0.01, 0.4))
        assert wide < narrow
        assert geometry.square_mask(512, margin=0.2).sum() < geometry.square_mask(512, margin=0).sum()

    def test_parse_mask_keeps_the_face_and_frees_the_edge(self):
        classes = np.zeros((512, 512), np.int64)
        classes[:, 150:362] = 1
        classes[400:, :] = 14
        mask = geometry.parse_mask(classes)
        assert mask[200, 256] == pytest.approx(1, abs=1e-3)
        assert mask[200, 20] == pytest.approx(0, abs=1e-3)
        assert mask[480, 256] < 0.01
        assert mask[:10].max() == 0
        assert mask.dtype == np.float32


class TestPasteChange:
    def test_nothing_changed_is_bit_equal(self, picture):
        matrix = geometry.face_matrix(landmarks_at())
        crop = geometry.crop(picture, matrix)
        assert np.array_equal(geometry.paste_change(picture, crop, crop.copy(), matrix), picture)

    def test_pixels_outside_the_change_are_bit_equal(self, picture):
        matrix = geometry.face_matrix(landmarks_at())
        before = geometry.crop(picture, matrix)
        after = before.copy()
        after[200:300, 200:300] += 0.1
        pasted = geometry.paste_change(picture, before, after, matrix)
        touched = np.argwhere((pasted != picture).any(-1))
        corners = geometry.transform(
            np.array([[200.0, 200], [300, 200], [200, 300], [300, 300]]), geometry.inverse(matrix)
        )
        assert touched[:, ::-1].min(0) == pytest.approx(corners.min(0), abs=4)
        assert touched[:, ::-1].max(0) == pytest.approx(corners.max(0), abs=4)
        centre = corners.mean(0).round().astype(int)
        assert (pasted - picture)[centre[1], centre[0]] == pytest.approx([0.1] * 3, abs=1e-3)

    @pytest.mark.parametrize("scale", [0.1, 0.5, 1.4])
    def test_a_brightened_face_brightens_the_picture_there(self, picture, scale):
        matrix = geometry.face_matrix(landmarks_at(scale=scale))
        before = geometry.crop(picture, matrix)
        pasted = geometry.paste_change(picture, before, before + np.float32(0.2), matrix)
        eyes = geometry.transform(TEMPLATE[:2], geometry.inverse(matrix)).round().astype(int)
        for x, y in eyes:
            assert (pasted - picture)[y, x] == pytest.approx([0.2] * 3, abs=1e-3)

    def test_small_faces_get_the_mean_of_a_fine_pattern(self, picture):
        matrix = geometry.face_matrix(landmarks_at(scale=0.1))
        before = geometry.crop(picture, matrix)
        pattern = np.indices((512, 512)).sum(0)[..., None] % 2 * np.float32(0.4)
        change = geometry.paste_change(picture, before, before + pattern, matrix) - picture
        x, y = geometry.transform(TEMPLATE[2:3], geometry.inverse(matrix)).round().astype(int)[0]
        assert change[y - 5 : y + 5, x - 5 : x + 5].std() < 0.01
        assert change[y, x] == pytest.approx([0.2] * 3, abs=0.02)

    def test_the_given_mask_weighs(self, picture):
        matrix = geometry.face_matrix(landmarks_at())
        before = geometry.crop(picture, matrix)
        nothing = np.zeros((512, 512), np.float32)
        assert np.array_equal(geometry.paste_change(picture, before, before + 1, matrix, nothing), picture)

    def test_in_place_and_beside_the_picture(self, picture):
        matrix = geometry.face_matrix(landmarks_at())
        before = geometry.crop(picture, matrix)
        copy = geometry.paste_change(picture, before, before + np.float32(0.1), matrix)
        target = picture.copy()
        assert geometry.paste_change(target, before, before + np.float32(0.1), matrix, out=target) is target
        assert np.array_equal(target, copy)
        assert not np.array_equal(copy, picture)
        far = geometry.face_matrix(landmarks_at(shift=(5000.0, 5000.0)))
        assert np.array_equal(geometry.paste_change(picture, before, before + 1, far), picture)
        assert np.array_equal(geometry.paste_replace(picture, before, far), picture)

    def test_large_pictures_cost_what_their_faces_cost(self):
        large = np.zeros((1951, 3664, 3), np.float32)
        matrix = geometry.face_matrix(landmarks_at(scale=0.4, shift=(2000, 900)))
        before, after = np.zeros((512, 512, 3), np.float32), np.ones((512, 512, 3), np.float32)
        started = perf_counter()
        for _ in range(8):
            geometry.paste_change(large, before, after, matrix, out=large)
        assert (perf_counter() - started) / 8 < 0.5  # measured 0.02 s; a whole-picture warp takes several times that


class TestPasteReplace:
    def test_a_parse_mask_limits_it(self, picture):
        matrix = geometry.face_matrix(landmarks_at())
        face = np.ones((512, 512, 3), np.float32)
        half = np.zeros((512, 512), np.float32)
        half[:, :256] = 1
        pasted = geometry.paste_replace(picture, face, matrix, mask=half)
        left, right = (
            geometry.transform(np.array([[100.0, 256], [400, 256]]), geometry.inverse(matrix)).round().astype(int)
        )
        assert pasted[left[1], left[0]] == pytest.approx([1] * 3)
        assert np.array_equal(pasted[right[1], right[0]], picture[right[1], right[0]])

    def test_tiny_faces_do_not_fail(self, picture):
        matrix = geometry.face_matrix(landmarks_at(scale=0.01))
        assert geometry.paste_replace(picture, np.ones((512, 512, 3), np.float32), matrix).shape == picture.shape
