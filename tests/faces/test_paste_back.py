"""Paste-back: what nobody changed stays bit-equal, neighbours share a seam, black-and-white stays so."""

import time

import cv2
import numpy as np
import pytest
from places import PARITY

from tasks.faces import geometry
from tasks.faces.alignment import Alignment
from tasks.faces.tone import tone_of
from tasks.pictures.picture import Picture, to_levels
from tasks.stage import Batch, Face
from tasks.stages.paste_back import PasteBack, PasteBackSettings, face_mask, shared_masks

PARSED_BY_FACEXLIB = {
    "frontal": [
        [70, 71, 63, 39, 70, 79],
        [82, 96, 85, 70, 165, 94],
        [119, 159, 131, 159, 134, 117],
        [186, 200, 116, 145, 88, 116],
        [225, 194, 130, 102, 75, 111],
        [150, 184, 130, 76, 52, 81],
    ],
    "tilted": [
        [70, 71, 63, 39, 70, 79],
        [82, 96, 102, 72, 165, 94],
        [119, 152, 131, 138, 134, 117],
        [186, 200, 115, 135, 88, 116],
        [225, 194, 129, 100, 75, 111],
        [150, 184, 130, 76, 52, 81],
    ],
}
"""Every 45th row and 75th column of green that facexlib 0.3.0 pasted with `use_parse`, given `drawn_classes`."""


def scene(height=600, width=800, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.random((8, 11, 3), np.float32)
    picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(picture + rng.normal(0, 0.02, picture.shape), 0, 1).astype(np.float32)


def matrix_at(x, y, side, turn=0.0):
    """Picture → crop for a face whose crop is centred at (x, y) and `side` picture pixels wide."""
    scale = geometry.SIDE / side
    matrix = cv2.getRotationMatrix2D((x, y), turn, scale)
    matrix[:, 2] += geometry.SIDE / 2 - np.array([x, y])
    return matrix


def face_at(matrix, number=0, detector="yunet"):
    """A face as detection leaves it: the crop's own square is its box."""
    points = geometry.transform(geometry.TEMPLATE, geometry.inverse(matrix))
    left, top = geometry.inverse(matrix)[:, 2]
    side = geometry.SIDE / geometry.scale_of(matrix)
    return Face("id", number, detail=Alignment(detector, (left, top, side, side), points, matrix).to_detail())


def batch_of(pixels, matrices, restore=lambda crop, number: crop):
    aligned = [geometry.crop(pixels, matrix) for matrix in matrices]
    restored = [restore(crop, number) for number, crop in enumerate(aligned)]
    faces = [face_at(matrix, n) for n, matrix in enumerate(matrices)]
    return Batch(faces, {"aligned": np.stack(aligned), "restored": np.stack(restored).astype(np.float32)})


def paste(picture, batch, **settings):
    """With `tone = "face"` unless said otherwise: most changes drawn here are changes of tone."""
    return PasteBack(PasteBackSettings(**{"tone": "face"} | settings)).run(picture, batch)


def brighter(crop, number=0):
    return crop + np.float32(0.1)


def test_unchanged_faces_leave_the_picture_alone():
    pixels = scene()
    result = paste(Picture(pixels), batch_of(pixels, [matrix_at(300, 300, 200), matrix_at(600, 200, 90)]))
    assert result.picture is None
    assert result.outcome.reason_code == "nothing_changed"


def test_a_change_too_small_to_be_written_is_none():
    pixels = np.full((300, 300, 3), 100 / 255, np.float32)
    batch = batch_of(pixels, [matrix_at(150, 150, 200)], lambda crop, n: crop + np.float32(1e-4))
    assert paste(Picture(pixels), batch).outcome.reason_code == "nothing_changed"
    assert paste(Picture(pixels, depth=16), batch).picture is not None


def test_only_the_changed_face_changes_and_the_rest_is_bit_equal():
    pixels = scene()
    matrices = [matrix_at(200, 300, 200, turn=20), matrix_at(600, 300, 200)]
    batch = batch_of(pixels, matrices, lambda crop, n: brighter(crop) if n == 0 else crop)
    result = paste(Picture(pixels), batch)
    assert result.outcome.detail["pasted"] == [0]
    assert np.array_equal(result.picture.pixels[:, 400:], pixels[:, 400:])
    assert np.array_equal(pixels, scene()), "the input is not written to"
    assert np.allclose(result.picture.pixels[300, 200] - pixels[300, 200], 0.1, atol=1e-3)
    corners = geometry.transform(np.array([[0, 0], [511, 0], [0, 511], [511, 511.0]]), geometry.inverse(matrices[0]))
    outside = np.ones(pixels.shape[:2], np.uint8)
    cv2.fillConvexPoly(outside, cv2.convexHull(np.round(corners).astype(np.int32)), 0)
    outside = cv2.erode(outside, np.ones((7, 7), np.uint8)).astype(bool)
    assert np.array_equal(result.picture.pixels[outside], pixels[outside])


def test_detail_that_the_crop_never_held_survives_where_nothing_changed():
    pixels = scene(seed=3)
    matrix = matrix_at(400, 300, 500)
    pixels[300, 400] = [1, 0, 0]

    def restore(crop, number):
        changed = crop.copy()
        changed[380:420, 200:300] += 0.1
        return changed

    result = paste(Picture(pixels), batch_of(pixels, [matrix], restore))
    assert np.array_equal(result.picture.pixels[300, 400], pixels[300, 400])


@pytest.mark.parametrize("distance", [0, 20, 60, 110, 150])
def test_overlapping_changes_are_shared_not_added(distance):
    pixels = np.full((400, 500, 3), 0.4, np.float32)
    matrices = [matrix_at(200, 200, 200), matrix_at(200 + distance, 210, 180, turn=-15)]
    batch = batch_of(pixels, matrices, brighter)
    assert paste(Picture(pixels), batch).picture.pixels.max() <= 0.5 + 1e-3
    result = paste(Picture(pixels), batch, mask="square", feather=0.1).picture.pixels
    assert result.max() <= 0.5 + 1e-3
    assert np.allclose(result[205, 200 + distance // 2], 0.5, atol=2e-3)


def test_each_of_two_neighbours_gets_its_own_restoration():
    pixels = np.full((400, 500, 3), 0.4, np.float32)
    matrices = [matrix_at(180, 200, 200), matrix_at(280, 200, 200)]
    batch = batch_of(pixels, matrices, lambda crop, n: crop + np.float32(0.1 if n else -0.1))
    result = paste(Picture(pixels), batch).picture.pixels
    assert np.allclose(result[200, 180], 0.3, atol=0.012)
    assert np.allclose(result[200, 280], 0.5, atol=0.012)
    assert np.abs(np.diff(result[200, 100:360, 0])).max() < 0.02, "no seam"


def test_faces_far_apart_have_whole_masks():
    masks = shared_masks([matrix_at(100, 100, 100), matrix_at(900, 100, 100)], [geometry.oval_mask()] * 2)
    assert all(np.array_equal(mask, geometry.oval_mask()) for mask in masks)


def test_a_mended_tone_fades_out_and_leaves_no_box():
    pixels = np.full((400, 400, 3), 0.4, np.float32)
    result = paste(Picture(pixels), batch_of(pixels, [matrix_at(200, 200, 300)], brighter)).picture.pixels
    assert np.allclose(result[200, 200], 0.5, atol=2e-3)
    assert np.abs(np.diff(result[..., 0], axis=0)).max() < 0.004, "no edge of more than one level"
    assert np.abs(np.diff(result[..., 0], axis=1)).max() < 0.004
    assert np.array_equal(result[60, 60], pixels[60, 60]), "the crop's corners stay what they were"


def test_a_face_across_the_edge_of_the_picture():
    pixels = scene()
    result = paste(Picture(pixels), batch_of(pixels, [matrix_at(0, 0, 300)], brighter))
    assert result.picture.pixels.shape == pixels.shape
    assert np.allclose(result.picture.pixels[0, 0] - pixels[0, 0], 0.1, atol=1e-3)
    assert np.array_equal(result.picture.pixels[400:], pixels[400:])


@pytest.mark.parametrize("grey_file", [True, False])
def test_grey_pictures_stay_grey(grey_file):
    pixels = np.repeat(scene()[..., :1], 3, axis=2)
    batch = batch_of(pixels, [matrix_at(300, 300, 200)], lambda crop, n: crop + np.float32([0.2, 0.1, 0.0]))
    result = paste(Picture(pixels, grey=grey_file), batch).picture.pixels
    assert np.ptp(to_levels(result, 8).astype(int), axis=2).max() == 0
    assert not np.array_equal(result, pixels)
    free = paste(Picture(pixels), batch, keep_tone=False).picture.pixels
    assert np.ptp(free, axis=2).max() > 0.1


def sepia(brightness):
    shade = brightness[..., None]
    return np.clip(np.concatenate([shade + 0.12 * (1 - shade), shade, shade - 0.1 * (1 - shade)], -1), 0, 1)


def test_sepia_stays_sepia():
    base = scene()[..., 0] * 0.8 + 0.1
    pixels = np.clip(sepia(base) + np.random.default_rng(1).normal(0, 0.005, (*base.shape, 3)), 0, 1).astype(np.float32)
    batch = batch_of(pixels, [matrix_at(300, 300, 200)], lambda crop, n: crop + np.float32([0.0, 0.1, 0.25]))
    result = paste(Picture(pixels), batch).picture.pixels[280:320, 280:320].mean((0, 1))
    expected = sepia(result @ np.float32([0.299, 0.587, 0.114]))
    assert np.abs(result - expected).max() < 0.02
    assert tone_of(scene()) is None


def test_replace_is_what_facexlib_does():
    pixels = scene()
    matrix = matrix_at(300, 300, 200)
    batch = batch_of(pixels, [matrix], brighter)
    result = paste(Picture(pixels), batch, mode="replace").picture.pixels
    assert np.array_equal(result, geometry.paste_replace(pixels, batch.images["restored"][0], matrix))


def drawn_classes():
    """A face (1), with an eye (4), a neck (14), cloth (17) and a hat (18)."""
    y, x = np.mgrid[:512, :512]
    classes = np.zeros((512, 512), np.int64)
    classes[((y - 280) / 190) ** 2 + ((x - 256) / 140) ** 2 < 1] = 1
    classes[y < 140] = 18
    classes[(y < 200) & (y >= 140) & (abs(x - 256) < 150)] = 17
    classes[(y > 430) & (abs(x - 256) < 60)] = 14
    classes[((y - 230) / 20) ** 2 + ((x - 190) / 40) ** 2 < 1] = 4
    return classes


@pytest.mark.skipif(not PARITY.is_dir(), reason=f"parity fixtures are not at {PARITY}")
@pytest.mark.parametrize("case", PARSED_BY_FACEXLIB)
def test_the_parsed_mask_pastes_as_facexlib_does(case):
    import torch

    def parser(rgb):
        return torch.nn.functional.one_hot(torch.from_numpy(drawn_classes()), 19).permute(2, 0, 1)[None], rgb

    with np.load(PARITY / "facexlib_align_io.npz") as io:
        picture, matrix, face = io["image_bgr_u8"], io[f"{case}_matrix"], 255 - io[f"{case}_crop"]
    mask = face_mask(parser, np.ascontiguousarray(face[..., ::-1]).astype(np.float32) / 255, "cpu")
    found = geometry.paste_replace(picture, face, matrix, mask)
    expected = np.array(PARSED_BY_FACEXLIB[case])
    assert np.abs(found[60:330:45, 60:440:75, 1] - expected).max() <= 2
    assert np.abs(picture[60:330:45, 60:440:75, 1] - expected).max() > 40, "the face is in what is compared"


@pytest.mark.parametrize("mode", ["change", "replace"])
def test_what_is_no_face_is_left_by_the_parsed_mask(mode):
    import torch

    stage = PasteBack(PasteBackSettings(mask="parse", mode=mode, tone="face"))
    classes = torch.zeros(512, 512, dtype=torch.int64)
    classes[:, :256] = 1
    stage._parser = lambda rgb: (torch.nn.functional.one_hot(classes, 19).permute(2, 0, 1)[None], rgb)
    stage._device = "cpu"
    pixels = scene()
    result = stage.run(Picture(pixels), batch_of(pixels, [matrix_at(400, 300, 400)], brighter)).picture.pixels
    assert np.allclose(result[300, 300] - pixels[300, 300], 0.1, atol=0.01)
    assert np.allclose(result[:, 450:], pixels[:, 450:], atol=1e-3)


def test_no_strength_is_no_change():
    pixels = scene()
    batch = batch_of(pixels, [matrix_at(300, 300, 300)], brighter)
    assert paste(Picture(pixels), batch, strength=0).outcome.reason_code == "nothing_changed"


def whole_batch(aligned, restored):
    return Batch([face_at(np.eye(3)[:2], detector="none")], {"aligned": aligned[None], "restored": restored[None]})


def test_an_aligned_picture_becomes_its_restored_face():
    pixels = scene(512, 512)
    stored = pixels.astype(np.float16).astype(np.float32)
    changed = stored.copy()
    changed[100:200, 100:200] += 0.25
    result = paste(Picture(pixels), whole_batch(stored, changed)).picture.pixels
    assert np.allclose(result[100:200, 100:200] - pixels[100:200, 100:200], 0.25, atol=1e-6)
    assert np.array_equal(result[300:], pixels[300:]), "what was stored more coarsely does not come back"


def test_an_aligned_picture_of_another_size_comes_back_at_512():
    alpha = np.full((256, 128), 200, np.uint8)
    picture = Picture(scene(256, 128), alpha=alpha)
    result = paste(picture, whole_batch(scene(512, 512), scene(512, 512, seed=9))).picture
    assert result.pixels.shape == (512, 512, 3)
    assert result.alpha.shape == (512, 512)
    assert set(np.unique(result.alpha)) == {200}
    assert paste(picture, whole_batch(scene(512, 512), scene(512, 512))).outcome.reason_code == "nothing_changed"


def test_many_faces_in_a_large_picture_are_pasted_in_their_own_windows():
    pixels = np.full((2000, 3600, 3), 0.5, np.float32)
    matrices = [matrix_at(250 + 440 * (n % 8), 300 + 460 * (n // 8), 420) for n in range(32)]
    batch = batch_of(pixels, matrices, brighter)
    started = time.process_time()
    result = paste(Picture(pixels), batch)
    assert len(result.outcome.detail["pasted"]) == 32
    assert time.process_time() - started < 10
