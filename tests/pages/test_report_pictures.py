"""The report's pictures, bounded bytes and faces in the right place; and what a real browser makes of the page."""

import io
from collections import Counter

import numpy as np
import pytest
from archive_maker import HOSTILE, Archive, noise, scored
from chromium import Browser, found
from PIL import Image

from tasks.pages.run.pictures import Album


def pictures_of(files, load_pixels, budget):
    """Pictures of the files in the gallery, by path."""
    chosen = [record for record in files if record.chosen]
    album = Album(load_pixels, len(chosen), budget)
    return {record.file.path: album.pictures(record) for record in chosen}


def test_pictures_keep_their_budget_and_their_size():
    files = scored(12).collect().files
    pictures = pictures_of(files, noise, 200_000)
    assert sum(p.size for p in pictures.values()) <= 200_000
    assert all(p.views for p in pictures.values())
    ample = pictures_of(files[:1], noise, 10_000_000)[files[0].file.path].views[-1]
    assert (ample.width, ample.height) == (260, 200)


@pytest.mark.parametrize("shape", [(40, 60), (40, 60, 3), (40, 60, 4)])
def test_grey_colour_and_transparent_pictures_are_shown(shape):
    files = scored(1).collect().files
    (pictures,) = pictures_of(files, lambda root, path: np.full(shape, 128, np.uint8), 100_000).values()
    assert pictures.views


def test_an_unchanged_picture_is_shown_once():
    archive = Archive()
    archive.add("a.jpg", "left_alone", "no_face", faces=0)
    asked = []
    pictures = pictures_of(archive.collect().files, lambda root, path: asked.append(root) or noise(root, path), 99_999)
    assert asked == ["source"]
    assert pictures["a.jpg"].views[0].after is None


def test_a_small_face_gets_a_view_of_its_own_from_the_right_place():
    archive = Archive()
    image_id = archive.add("group.jpg", "restored")
    points = [[690, 190], [710, 190], [700, 200], [692, 210], [708, 210]]
    archive.event(image_id, 0, "detect_align", detail={"points": points})
    picture = np.zeros((600, 800, 3), np.uint8)
    picture[185:215, 685:715] = 255
    face, whole = pictures_of(archive.collect().files, lambda *_: picture, 1_000_000)["group.jpg"].views
    assert (face.label, whole.label) == ("face 1", "the whole picture")
    crop = np.asarray(Image.open(io.BytesIO(face.before)).convert("L"))
    assert crop[crop.shape[0] // 2, crop.shape[1] // 2] > 200
    assert crop[2, 2] < 50


def test_one_lost_picture_does_not_cost_the_report(tmp_path):
    def load(root, path):
        if path.endswith("00003.jpg"):
            raise FileNotFoundError(path)
        return noise(root, path)

    collected = scored(6).collect()
    pictures = pictures_of(collected.files, load, 300_000)
    assert Counter(bool(p.views) for p in pictures.values()) == {True: 5, False: 1}
    assert "FileNotFoundError" in pictures["box 3/00003.jpg"].problem
    views = collected.write(tmp_path, load).rows["view"]
    assert sum("FileNotFoundError" in view for view in views) == 1


# ---- what a browser makes of it ----


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A page with hostile names, of which some are troubles."""
    archive = scored(70)
    for name in HOSTILE:
        archive.add(name, "quarantined", "stage_error")
    return archive.collect().write(tmp_path_factory.mktemp("made"), noise)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if found() is None:
        pytest.skip("no Chromium on this machine")
    with Browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture
def page(written, browser):
    """The page, freshly opened, with its list loaded; its console stays empty."""
    browser.errors.clear()
    browser.look()
    browser.open((written.folder / "index.html").as_uri())
    browser.until("!!rows && !!document.querySelector('.card')")
    yield browser
    browser.js("1")
    assert browser.errors == []


def test_a_real_browser_draws_cards_rows_and_hostile_names(page):
    assert page.js("document.querySelectorAll('#results article.card').length") == 24
    assert page.js("document.querySelectorAll('#results .card input[type=range]').length") == 24
    page.until("[...document.querySelectorAll('.card img')].slice(0, 8).every((i) => i.complete && i.naturalWidth > 0)")
    troubles = page.js("$('troubles-list').textContent")
    assert HOSTILE[1] in troubles
    assert "⟨U+202E⟩" in troubles
    assert page.js("document.querySelectorAll('#troubles-list img, #troubles-list script').length") == 0


def test_it_opens_on_the_most_changed_and_shows_the_ten_to_look_at_first(page):
    changes = page.js("current.map((n) => value(n, 'change'))")
    assert changes == sorted(changes, reverse=True)
    assert page.js("$('order').value") == "-change"
    assert page.js("document.querySelectorAll('#worst-pictures .card').length") == 10
    shown = page.js("[...document.querySelectorAll('#worst-pictures .name')].map((each) => each.textContent)")
    alike = page.js("data.rankings.least_alike.map((n) => split(rows.path[n])[1])")
    assert shown == alike


def test_a_picture_is_enlarged(page):
    page.js("show(current[0])")
    page.until("$('detail').open")
    width = page.js("document.querySelector('.stand .compare').clientWidth")
    page.js("[...document.querySelectorAll('#detail .tools button')].find((b) => b.textContent === '4×').click()")
    assert page.js("document.querySelector('.stand .compare').clientWidth") == pytest.approx(4 * width, abs=4)
    assert page.js("document.querySelector('.stand').scrollWidth > document.querySelector('.stand').clientWidth")


def test_filters_orders_and_views_work_together(page):
    assert page.js("$('found-note').textContent") == "1 to 24 of 70 pictures"
    page.js("$('as-list').click()")
    assert page.js("$('found-note').textContent") == "1 to 50 of 74 files"
    page.js("[...document.querySelectorAll('#chips button')].at(-1).click()")
    assert page.js("current.length") == len(HOSTILE)
    page.js("$('as-pictures').click()")
    assert page.js("document.querySelector('.empty-title').textContent") == "No pictures here."
    page.js("document.querySelector('#chips button').click()")
    page.js("choose('order', 'gain')")
    gains = page.js("current.map((n) => value(n, 'gain'))")
    assert gains == sorted(gains)
    page.js("choose('order', 'path')")
    paths = page.js("current.map((n) => rows.path[n])")
    assert paths == sorted(paths)


def test_a_file_opens_with_its_pictures_steps_and_scores(page):
    page.js("document.querySelector('.card .name').focus()")
    page.press("Enter", 13, "\r")
    page.until("$('detail').open")
    told = page.js("$('detail').textContent")
    assert "Compact quality" in told
    assert "identity" in told
    assert page.js("document.activeElement.id") == "detail-title"
    page.press("ArrowRight", 39)
    page.until("location.hash === `#file-${current[1]}`")
    page.press("Escape", 27)
    page.until("!$('detail').open")


def test_it_fits_a_phone(page):
    page.look(390, 844, phone=True)
    assert page.js("document.documentElement.scrollWidth") == 390
    page.js("$('as-list').click()")
    assert page.js("document.documentElement.scrollWidth") == 390
