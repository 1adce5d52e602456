"""The demo archive: real files of every kind, the same each time, with originals to measure against."""

import shutil
import time
from collections import Counter

import numpy as np
import pytest

from infra.storage.storage import Storage
from tasks.archive import books
from tasks.archive.demo import gains, make
from tasks.archive.scan import scan_archive
from tasks.pictures.codec import decode
from tasks.pictures.picture import DecodeError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def expected(folder):
    return make(folder, 1)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(folder, expected, tmp_path):
    started = time.process_time()
    make(tmp_path / "again", 1)
    assert time.process_time() - started < 6
    assert contents(tmp_path / "again") == contents(folder)
    make(tmp_path / "other", 2)
    assert contents(tmp_path / "other" / "archive") != contents(folder / "archive")


def test_it_lists_every_file_and_only_outcomes_that_exist(folder, expected):
    found = {path.relative_to(folder / "archive").as_posix() for path in (folder / "archive").rglob("*.*")}
    assert {each.path for each in expected} == found
    assert 20 <= len(expected) <= 30
    assert all(each.outcomes <= set(books.OUTCOMES) for each in expected)
    assert all(folder / "truth" in each.truth.parents for each in expected if each.truth)


def test_it_has_files_of_every_kind(folder, expected):
    rows = {row.path: row for row in scan_archive(Storage(folder / "archive"), {})}
    assert {"JPEG", "PNG", "WEBP", "TIFF", "BMP", None} == {row.format for row in rows.values()}
    assert {row.problem for row in rows.values()} == {None, "empty_file", "not_an_image"}
    assert sorted(Counter(row.image_id for row in rows.values()).values())[-1] == 2, "one duplicate"
    assert rows["phone/really a png.jpg"].format == "PNG"
    pictures = {each.path: decode(each.source.read_bytes()) for each in expected if each.truth}
    assert {picture.depth for picture in pictures.values()} == {8, 16}
    assert any(picture.alpha is not None for picture in pictures.values())
    assert any(picture.grey for picture in pictures.values())
    assert any("CMYK" in picture.mode for picture in pictures.values())
    for each in expected:
        if each.outcomes == {"quarantined"}:
            with pytest.raises(DecodeError):
                decode(each.source.read_bytes())


def test_originals_lie_over_the_aged_files(expected):
    """Upright and of the same size, and nearer to their own original than to its mirror image."""
    for each in expected:
        if each.truth:
            aged, clean = (decode(path.read_bytes()).pixels for path in (each.source, each.truth))
            assert aged.shape == clean.shape, each.path
            if "pair" not in each.truth.name:
                assert np.abs(aged - clean).mean() < 0.8 * np.abs(aged[:, ::-1] - clean).mean(), each.path


def test_face_boxes_hold_the_faces(expected):
    """Skin is redder than it is blue; the boxes of colour scenes hold mostly skin."""
    for truth, faces in {(each.truth, each.faces) for each in expected if each.truth and "grey" not in each.truth.name}:
        pixels = decode(truth.read_bytes()).pixels
        for left, top, width, height in faces:
            assert left >= 0
            assert top >= 0
            part = pixels[top : top + height, left : left + width]
            assert part.shape == (height, width, 3)
            assert (part[..., 0] > part[..., 2] + 0.1).mean() > 0.5, truth.name


def test_gains_are_measured_against_the_originals(expected, folder, tmp_path):
    measured = [each for each in expected if each.path in ("1969/training/medium.jpg", "scans/grey.png")]
    restored = tmp_path / "restored"
    for each in measured:
        (restored / each.path).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(measured[0].truth, restored / measured[0].path)
    shutil.copy(measured[1].source, restored / measured[1].path)
    perfect, same = gains(expected, restored)
    assert perfect.path == measured[0].path
    assert perfect.face_psnr_restored == perfect.whole_psnr_restored == 100
    assert perfect.face_ssim_restored == pytest.approx(1)
    assert 15 < perfect.face_psnr < 35
    assert same.face_psnr == same.face_psnr_restored
    assert same.cells()[1::2] == ("+0.00", "+0.000", "+0.00")
    assert set(perfect.as_dict()) >= {"path", "face_psnr", "face_psnr_restored", "whole_ssim_restored"}


def test_files_that_were_not_restored_have_no_gain(expected, tmp_path):
    assert gains(expected, tmp_path / "nothing") == []
