"""The report's pictures: bounded bytes, faces in the right place, and a page that a real browser draws."""

import json
import re
import shutil
import subprocess
from collections import Counter

import numpy as np
import pytest
from test_report import HOSTILE, Archive, noise, scored

from tasks.pages.run.page import page
from tasks.pages.run.pictures import pictures_of


def test_pictures_keep_their_budget_and_their_size():
    files = scored(12).collect().files
    pictures = pictures_of(files, noise, 200_000)
    assert sum(p.size for p in pictures.values()) <= 200_000
    assert all(p.views for p in pictures.values())
    ample = pictures_of(files[:1], noise, 10_000_000)[0].views[-1]
    assert (ample.width, ample.height) == (260, 200)


@pytest.mark.parametrize("shape", [(40, 60), (40, 60, 3), (40, 60, 4)])
def test_grey_colour_and_transparent_pictures_are_shown(shape):
    files = scored(1).collect().files
    assert pictures_of(files, lambda root, path: np.full(shape, 128, np.uint8), 100_000)[0].views


def test_an_unchanged_picture_is_shown_once():
    archive = Archive()
    archive.add("a.jpg", "left_alone", "no_face", faces=0)
    asked = []
    pictures = pictures_of(archive.collect().files, lambda root, path: asked.append(root) or noise(root, path), 99_999)
    assert asked == ["source"]
    assert pictures[0].views[0].after is None


def test_a_small_face_gets_a_view_of_its_own_from_the_right_place():
    import io

    from PIL import Image

    archive = Archive()
    image_id = archive.add("group.jpg", "restored")
    points = [[690, 190], [710, 190], [700, 200], [692, 210], [708, 210]]
    archive.event(image_id, 0, "detect_align", detail=json.dumps({"points": points}))
    picture = np.zeros((600, 800, 3), np.uint8)
    picture[185:215, 685:715] = 255
    face, whole = pictures_of(archive.collect().files, lambda *_: picture, 1_000_000)[0].views
    assert (face.label, whole.label) == ("face 1", "the whole picture")
    crop = np.asarray(Image.open(io.BytesIO(face.before)).convert("L"))
    assert crop[crop.shape[0] // 2, crop.shape[1] // 2] > 200
    assert crop[2, 2] < 50


def test_one_lost_picture_does_not_cost_the_report():
    def load(root, path):
        if path.endswith("00003.jpg"):
            raise FileNotFoundError(path)
        return noise(root, path)

    pictures = pictures_of(scored(6).collect().files, load, 300_000)
    assert Counter(bool(p.views) for p in pictures.values()) == {True: 5, False: 1}
    assert "FileNotFoundError" in pictures[3].problem


def chromium():
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.skipif(chromium() is None, reason="no Chromium on this machine")
def test_a_real_browser_draws_cards_rows_and_hostile_names(tmp_path):
    archive = scored(40)
    for name in HOSTILE:
        archive.add(name, "quarantined", "stage_error")
    data = archive.collect()
    (tmp_path / "index.html").write_text(page(data, pictures_of(data.files, noise, 500_000)), "utf-8")
    command = [
        chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=3000", "--dump-dom",
        (tmp_path / "index.html").as_uri(),
    ]  # fmt: skip
    dom = subprocess.run(command, capture_output=True, timeout=120, check=True).stdout.decode()
    drawn = re.sub(r"<script.*?</script>", "", dom, flags=re.S)
    assert drawn.count('<article class="card"') == 24
    assert drawn.count('type="range"') == 24
    assert "&lt;img src=x onerror=alert(2)&gt;.png" in drawn
    assert "<img src=x" not in drawn.replace('"', "")
    assert "⟨U+202E⟩" in drawn
