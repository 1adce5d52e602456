"""Tones belong to the picture: it gets what its faces got, or no face keeps it; and what that leaves of a seam."""

import numpy as np
import pytest
from skimage import data
from test_paste_back import batch_of, matrix_at, scene

from tasks.archive.degradation import FADING, Degradation, degrade
from tasks.faces import geometry
from tasks.faces.colour_map import ColourMap, picture_map
from tasks.faces.seam import seam_of
from tasks.pictures.picture import Picture
from tasks.stages.paste_back import PasteBack, PasteBackSettings

MASK = geometry.oval_mask()


@pytest.fixture(scope="module")
def photograph():
    """A photograph with a face and something black, white and grey beside it."""
    pixels = (data.astronaut() / 255).astype(np.float32)
    return np.ascontiguousarray(np.pad(pixels, ((0, 0), (120, 120), (0, 0)), mode="reflect"))


def face_of(photograph):
    return matrix_at(345, 110, 220)


def paste(pixels, batch, **settings):
    return PasteBack(PasteBackSettings(**settings)).run(Picture(pixels), batch)


def test_a_map_fitted_on_a_face_mends_the_whole_picture(photograph):
    faded = degrade(photograph, FADING, 0)
    matrix = face_of(photograph)
    truth = geometry.crop(photograph, matrix)
    result = paste(faded, batch_of(faded, [matrix], lambda crop, n: truth))
    assert result.outcome.detail["picture_tone"] is not None
    before, after = (np.abs(each - photograph).mean() for each in (faded, result.picture.pixels))
    assert after < before / 3


def test_a_tone_that_the_picture_does_not_bear_out_is_taken_out_and_the_detail_stays(photograph):
    matrix = face_of(photograph)
    rng = np.random.default_rng(0)
    detail = rng.normal(0, 0.03, (512, 512, 3)).astype(np.float32)
    batch = batch_of(photograph, [matrix], lambda crop, n: crop * np.float32([1.2, 1.0, 0.75]) + detail)
    result = paste(photograph, batch)
    assert result.outcome.detail["picture_tone"] is None
    crops = [geometry.crop(picture, matrix) for picture in (photograph, result.picture.pixels)]
    assert seam_of(*crops, MASK).colour < 1
    painted = geometry.crop(paste(photograph, batch, tone="face").picture.pixels, matrix)
    assert seam_of(crops[0], painted, MASK).colour > 5
    middle = (slice(200, 300), slice(200, 300))
    assert np.std((crops[1] - crops[0])[middle]) > 0.004


def test_what_no_face_changed_stays_bit_equal():
    pixels = scene()
    result = paste(pixels, batch_of(pixels, [matrix_at(300, 300, 200)], lambda crop, n: crop + np.float32(0.1)))
    changed = pixels if result.picture is None else result.picture.pixels
    assert np.array_equal(changed[:, 450:], pixels[:, 450:])


def test_a_grey_photograph_on_a_coloured_page_stays_grey():
    page = np.full((700, 900, 3), [0.8, 0.5, 0.2], np.float32)
    page[100:500, 100:500] = scene(400, 400)[..., :1]
    batch = batch_of(page, [matrix_at(300, 300, 220)], lambda crop, n: crop + np.float32([0.06, 0.03, 0.0]))
    for tone in ("face", "picture"):
        result = paste(page, batch, tone=tone).picture
        found = page if result is None else result.pixels
        assert np.ptp(found[200:400, 200:400], axis=2).max() < 2 / 255


def test_nothing_is_done_to_a_picture_without_changed_tones(photograph):
    crop = geometry.crop(photograph, face_of(photograph))
    assert picture_map(photograph, [(crop, crop)], [MASK]) is None
    assert picture_map(photograph, [], []) is None
    assert ColourMap.fitted([(crop, crop)], [MASK]).size(crop) < 0.01


def test_a_map_is_undone_exactly():
    rng = np.random.default_rng(3)
    before = rng.random((512, 512, 3), np.float32)
    faded = degrade(before, Degradation(fading=0.5), 0)
    found = ColourMap.fitted([(before, faded)], [MASK])
    assert np.abs(found.undone(found(before)) - before).max() < 1e-3


def test_delivered_faces_are_cut_from_the_written_picture(photograph):
    matrix = face_of(photograph)
    batch = batch_of(photograph, [matrix], lambda crop, n: crop)
    written = Picture(np.ascontiguousarray(photograph[..., ::-1]))
    (face,) = PasteBack(PasteBackSettings()).delivered(written, batch)
    assert np.allclose(face.images["delivered"], geometry.crop(written.pixels, matrix, antialias=True))
    assert face.outcome.metrics.keys() == {"seam_colour", "seam_gradient"}
