"""An evaluation's page: its numbers are the files', its gallery sorts, filters and pages in a real browser."""

import json
import re
from datetime import UTC, datetime
from itertools import pairwise
from math import ceil

import numpy as np
import pyarrow as pa
import pytest
from chromium import Browser, found
from evaluation_maker import HOSTILE, SUBSETS, Maker, sha, stem
from PIL import Image
from typer.testing import CliRunner

from flows.cli.main import app
from flows.evaluation.page import write_evaluation_report
from infra.ledger.histories import History
from infra.ledger.rows import Event
from infra.storage.storage import Storage
from tasks.measuring.challenge import Overall
from tasks.measuring.files import read_evaluation, write_evaluation
from tasks.pages.evaluation.charts import plane_of
from tasks.pages.evaluation.pictures import SMALL
from tasks.pages.evaluation.restoring import Gate, Restoring, Wanted, restoring_of
from tasks.pages.evaluation.sheet import failures, sheet_of
from tasks.pages.shared.records import RunFacts
from tasks.pages.shared.shell import CHUNK
from tasks.recipes.condition import Condition

FACES = 60


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An evaluated workspace with its page."""
    maker = Maker(tmp_path_factory.mktemp("made"), FACES, truth=True)
    maker.page = write_evaluation_report(maker.folder)
    return maker


@pytest.fixture(scope="module")
def private(tmp_path_factory):
    """A small one whose run wanted no pictures; no page yet."""
    return Maker(tmp_path_factory.mktemp("private"), 3, private=True)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if found() is None:
        pytest.skip("no Chromium on this machine")
    with Browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture
def page(made, browser):
    """The page, freshly opened, with its list loaded."""
    browser.errors.clear()
    browser.look()
    browser.open(f"file://{pathname(made.page)}")
    browser.until("!!rows && !!document.querySelector('.card')")
    yield browser
    browser.js("1")
    assert browser.errors == []


def pathname(path):
    return path.replace("%", "%25").replace(" ", "%20").replace("#", "%23")


def text_of(maker, name="index.html"):
    return maker.folder.read_bytes(f"report/{name}").decode()


def chunk(maker, name):
    return json.loads(re.fullmatch(r"take\('[\w-]+',(.*)\)", text_of(maker, f"data/{name}.js"), re.DOTALL)[1])


def change(page, control, value):
    page.js(f"$('{control}').value = {json.dumps(value)}; $('{control}').dispatchEvent(new Event('change'))")


def names(page):
    return page.js("[...document.querySelectorAll('.card .name, #results .list .name')].map((n) => n.textContent)")


def press(page, inside, text):
    page.js(f"[...document.querySelectorAll('{inside} button')].find((b) => b.textContent === '{text}').click()")


# ---- what is written ----


def test_tables_hold_the_evaluations_numbers(made):
    html, facts = text_of(made), read_evaluation(made.folder).facts
    for name, value in facts.overall.means.items():
        assert f'<td class="n">{value:.4f}</td>' in html, name
    for subset in facts.subsets.values():
        assert f'<td class="n">{subset.means["musiq"]:.4f}</td>' in html
    assert "4.2231" in html  # the published score
    assert "There is no score without MANIQA, Q-Align, FID" in html
    assert "needs &lt;weights&gt;" in html
    assert sha("musiq") in html
    assert "GPU" not in html


def test_columns_hold_every_face(made):
    columns, table = chunk(made, "rows"), read_evaluation(made.folder).faces
    assert columns["path"] == table.column("path").to_pylist()
    assert columns["values"]["niqe"][:-1] == pytest.approx(table.column("niqe").to_pylist()[:-1], rel=1e-3)
    assert columns["values"]["niqe"][-1] is None
    gains = np.array(columns["values"]["musiq.gain"][:-1]) + made.musiq
    assert gains == pytest.approx(table.column("musiq").to_pylist()[:-1], rel=1e-2, abs=0.02)


def test_failures_are_those_below_their_subsets_threshold(made):
    evaluation = read_evaluation(made.folder)
    failed = failures(evaluation)
    expected = [
        -1 if row["problem"] else int(row["identity"] < SUBSETS[row["subset"]]) for row in evaluation.faces.to_pylist()
    ]
    assert failed.tolist() == expected
    assert 0 < (failed == 1).sum() == evaluation.facts.overall.identity_failures


def test_gates_are_told_with_their_thresholds(made):
    html = text_of(made)
    severe = int(((made.clipiqa < 0.3) & (made.musiq < 17)).sum())
    assert severe > 0
    assert (
        f'<th scope="row">CLIP-IQA &lt; 0.3, MUSIQ &lt; 17</th><td class="n">{severe}</td><td class="n">0</td>' in html
    )
    assert f"ran for {severe}" in html


def test_a_gate_over_one_metric_has_no_plane():
    gate = Gate(
        "g", "a.aligned < 1", (("a.aligned", "<", 1.0),), np.array([[0.5], [2.0], [np.nan]]), np.array([1, 0, 0], bool)
    )
    plane = plane_of(gate)
    assert (plane.y, plane.unmeasured, plane.ran_count, plane.spared_count) == (None, 1, 1, 2)
    assert plane.table == (("a < 1", 1, 0), ("a ≥ 1", 0, 1))
    assert plane.x.fires == (0.0, plane.x.mark)


def test_a_gate_may_ask_twice_for_a_metric_and_sees_what_earlier_stages_took():
    def event(stage, code="ok", **metrics):
        named = {name.replace("_", "."): value for name, value in metrics.items()}
        return Event(image_id="a", face=0, stage=stage, state="done", reason_code=code, metrics=named, run_id="r")

    verdict = Event(image_id="a", stage="commit", state="done", outcome="restored")
    steps = (event("score", musiq_aligned=20.0), event("severe", "gate_not_met"), event("evaluate", musiq_input=21.0))
    history = History("a", (), (*steps, verdict))
    facts = RunFacts("r", "", "", "", "", datetime.now(UTC), stages=("score", "severe", "evaluate"))
    conditions = {"severe": Condition("musiq.input > 3 and musiq.input < 17")}
    restoring = restoring_of(facts, conditions, {}, [history], Wanted(("musiq",), {"a"}, {"a"}))
    (gate,) = restoring.gates
    assert gate.values.tolist() == [[20.0, 20.0]]
    assert gate.ran.tolist() == [False]
    assert restoring.before == {("a", 0): {"musiq": 21.0}}
    assert [step.stage for step in restoring.records["a"][0].steps] == ["score", "severe", "evaluate"]


def test_a_face_is_found_again_by_its_landmarks():
    points = np.arange(10.0).reshape(5, 2)
    known = {"photo": {0: points + 300, 1: points}}
    restoring = Restoring(None, {}, (), (), {}, known, {}, {})
    twice = np.array([[2.0, 0, 5], [0, 2, 7]])
    assert restoring.face_of("photo", 0, twice, 2 * points + [5, 7]) == ("photo", 1)
    assert restoring.face_of("photo", 0, twice, 2 * points + 200) is None
    assert restoring.face_of("photo", 0, None, points) == ("photo", 0)


def test_pictures_lie_side_by_side_and_are_made_once(made):
    columns = chunk(made, "rows")
    name = f"report/pictures/{columns['picture'][5]}.jpg"
    with Image.open(made.folder.local_path(name)) as image:
        assert image.size == (3 * SMALL, SMALL)
        left, middle, right = (np.asarray(image)[:, k * SMALL : (k + 1) * SMALL].mean(axis=(0, 1)) for k in range(3))
    assert np.abs(left - middle).max() > 3  # input and result differ
    assert np.abs(middle - right).max() < 3 or np.abs(left - right).max() < 3  # the truth is one of the two here
    before = made.folder.info(name).mtime_ns
    made.folder.write_atomic("report/pictures/of-nobody.jpg", b"x")
    write_evaluation_report(made.folder)
    assert made.folder.info(name).mtime_ns == before
    assert not made.folder.exists("report/pictures/of-nobody.jpg")


def test_private_means_no_pixel(private):
    maker = private
    write_evaluation_report(maker.folder)
    assert not maker.folder.exists("report/pictures")
    assert "holds no pixel" in text_of(maker)
    told = CliRunner().invoke(app, ["report", "--workspace", maker.folder.url, "--thumbnails"])
    assert (told.exit_code, told.stdout.strip()) == (0, str(maker.folder.local_path("report/index.html")))
    assert maker.folder.exists("report/pictures")
    write_evaluation_report(maker.folder, pictures=False)
    assert not maker.folder.exists("report/pictures")
    assert set(chunk(maker, "rows")["picture"]) == {""}


def test_without_a_workspace_it_says_what_it_cannot_know(private, tmp_path):
    evaluation = read_evaluation(private.folder)
    apart = Storage(tmp_path / "apart")
    write_evaluation(apart, evaluation.facts.model_copy(update={"workspace": None}), evaluation.faces)
    write_evaluation_report(apart)
    assert apart.read_bytes("report/index.html").decode().count("there is no ledger of their making") == 4
    gone = {"workspace": str(tmp_path / "gone"), "against": str(tmp_path / "gone too")}
    write_evaluation(apart, evaluation.facts.model_copy(update=gone), evaluation.faces)
    write_evaluation_report(apart)
    assert "could not be asked" in apart.read_bytes("report/index.html").decode()


def test_nothing_measured_is_a_page_too(private, tmp_path):
    evaluation, folder = read_evaluation(private.folder), Storage(tmp_path)
    none = {"overall": Overall(), "subsets": {}, "metrics": {}, "stages": {}, "workspace": None}
    facts = evaluation.facts.model_copy(update=none)
    write_evaluation(folder, facts, evaluation.faces.slice(3).select(range(14)))
    write_evaluation_report(folder)
    assert "No face was measured" in folder.read_bytes("report/index.html").decode()


# ---- what a browser makes of it ----


def test_hostile_names_stay_text(page):
    drawn = page.js("document.querySelector('#results').textContent")
    assert HOSTILE[0] in drawn
    assert "⟨U+202E⟩" in drawn
    assert page.js("document.querySelectorAll('#results script, #results [onerror], #overall b b').length") == 0
    assert page.js("[...document.querySelectorAll('.subsets th')].some((n) => n.textContent === '</script><b>')")
    page.js("show(2)")
    page.until("$('detail').open")
    href = page.js("document.querySelector('#detail dd a').getAttribute('href')")
    assert href.endswith("/restored/caf%E9%20100%25%20%23%3F/caf%E9%20100%25%20%23%3F.jpg")


def test_every_order_is_the_columns_order(page, made):
    columns = chunk(made, "rows")
    for order in ("-clipiqa", "niqe", "identity", "-musiq.gain"):
        change(page, "order", order)
        values = columns["values"][order.lstrip("-")]
        sign = -1 if order.startswith("-") else 1
        ranked = sorted((n for n, v in enumerate(values) if v is not None), key=lambda n: (sign * values[n], n))
        assert page.js("current.slice(0, 24)") == ranked[:24], order
    assert page.js("current.at(-1)") == FACES  # not measured comes last


def test_filters_by_subset_failure_problem_and_text(page, made):
    failed = sum(flag == 1 for flag in chunk(made, "rows")["failed"])
    change(page, "problem", "identity failure")
    assert page.js("current.length") == failed
    assert page.js("document.querySelectorAll('.card .low').length") == min(24, failed)
    change(page, "subset", "1")
    assert page.js("current.every((n) => rows.subset[n] === 1 && rows.failed[n] === 1)")
    page.js("document.querySelector('[data-problem]').click()")
    assert page.js("current.length") == 0
    assert page.js("document.querySelector('.empty-title').textContent") == "No face matches."
    page.js("document.querySelector('.empty button').click()")
    assert page.js("current.length") == FACES + 1
    page.js("$('query').value = 'BOX 3/'; $('query').dispatchEvent(new Event('input'))")
    page.until("current.length < 20")
    assert all(stem(n).startswith("box 3/") for n in page.js("current"))
    assert (
        page.js("$('found-note').textContent")
        == f"1 to {page.js('current.length')} of {page.js('current.length')} faces"
    )


def test_pages_replace_each_other(page):
    first = names(page)
    press(page, ".pager", "Later")
    assert not set(first) & set(names(page))
    assert page.js("document.activeElement.id") == "list-title"
    assert page.js("document.querySelectorAll('.card').length") == 24
    assert page.js("[...document.querySelectorAll('#results img')].every((i) => i.loading === 'lazy')")


def test_the_list_sorts_by_its_heads(page):
    page.js("$('as-list').click()")
    page.js("$('sort-identity').focus()")
    page.press("Enter", 13, "\r")
    assert page.js("document.querySelector('[aria-sort]').textContent") == "AdaFace similarity to the input"
    assert page.js("document.querySelector('[aria-sort]').getAttribute('aria-sort')") == "descending"
    assert page.js("document.activeElement.id") == "sort-identity"
    page.press("Enter", 13, "\r")
    assert page.js("rows.values.identity[current[0]] <= rows.values.identity[current[1]]")


def test_the_slider_moves_by_keyboard(page):
    page.js("document.querySelector('.card input[type=range]').focus()")
    for _ in range(3):
        page.press("ArrowRight", 39)
    assert page.js("document.activeElement.value") == "53"
    assert page.js("document.activeElement.getAttribute('aria-valuetext')") == "53 per cent input, 47 per cent result"
    assert page.js("document.querySelector('.compare').style.getPropertyValue('--at')") == "53%"
    label = page.js("document.activeElement.getAttribute('aria-label')")
    assert label.startswith("Input and result of ")


def test_a_face_opens_turns_and_closes_by_keyboard(page, made):
    page.js("document.querySelector('.card .name').focus()")
    page.press("Enter", 13, "\r")
    page.until("$('detail').open")
    assert page.js("document.activeElement.id") == "detail-title"
    page.until("[...document.querySelectorAll('#detail img')].every((i) => i.complete && i.naturalWidth > 0)")
    assert page.js("[...document.querySelectorAll('.strip li')].map((n) => n.textContent)") == [
        "detect_align (the input)", "pisa_sr", "skin_tone"]  # fmt: skip
    assert sha("input 0") in page.js("$('detail').textContent")
    narrow = page.js("document.querySelector('.stand .compare').offsetWidth")
    press(page, "#detail", "2×")
    assert page.js("document.querySelector('.stand .compare').offsetWidth") == pytest.approx(2 * narrow, abs=2)
    press(page, "#detail", "result and truth")
    assert page.js("document.querySelector('#detail .side.is').textContent") == "truth"
    page.js("$('detail-title').focus()")
    page.press("ArrowRight", 39)
    page.until("location.hash === '#face-1'")
    page.press("Escape", 27)
    page.until("!$('detail').open && $('detail').childElementCount === 0")
    page.js("show(50)")
    page.until("$('detail').open")
    assert "were not kept" in page.js("$('detail').textContent")


def test_it_follows_the_readers_colours_and_fits_a_phone(page):
    light = page.js("getComputedStyle(document.body).backgroundColor")
    page.look(dark=True)
    dark = page.js("getComputedStyle(document.body).backgroundColor")
    brightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (light, dark)]
    assert brightness[0] > 600
    assert brightness[1] < 150
    page.look(390, 844, phone=True)
    assert page.js("document.documentElement.scrollWidth") == 390


def test_charts_and_controls_have_words(page):
    assert page.js("[...document.querySelectorAll('svg')].every((n) => n.getAttribute('aria-label'))")
    assert page.js("[...document.querySelectorAll('table')].every((n) => n.caption)")
    assert page.js("[...document.querySelectorAll('input, select')].every((n) => n.ariaLabel || n.closest('label'))")
    assert page.js("[...document.querySelectorAll('button, a')].every((n) => n.textContent.trim() || n.ariaLabel)")
    heads = page.js("[...document.querySelectorAll('h1, main h2, main h3')].map((n) => Number(n.tagName[1]))")
    assert heads[0] == 1
    assert all(b - a <= 1 for a, b in pairwise(heads))


def test_thousands_of_faces_stay_small_and_quick(browser, private, tmp_path):
    few = read_evaluation(private.folder)
    rng, rows = np.random.default_rng(1), 6000
    base = few.faces.slice(0, 1).to_pylist()[0]
    varied = [
        base | {"path": f"f{k % 90}/{k:06d}.jpg", "pair_id": sha(str(k)), "niqe": float(v), "identity": float(v) / 9}
        for k, v in enumerate(rng.normal(5, 1, rows))
    ]
    folder = Storage(tmp_path / "many")
    write_evaluation(
        folder, few.facts.model_copy(update={"workspace": None}), pa.Table.from_pylist(varied, few.faces.schema)
    )
    address = write_evaluation_report(folder, pictures=False)
    assert folder.size("report/index.html") < 200_000
    assert len(list(folder.walk("report/data"))) == 1 + ceil(rows / CHUNK)
    browser.look()
    browser.open(f"file://{pathname(address)}")
    browser.until("!!rows && !!document.querySelector('#results .name')")
    spent = browser.js(
        "(() => { const t = performance.now(); choose('order', 'niqe'); return performance.now() - t; })()"
    )
    assert spent < 1000
    for page_number in (50, 100, 200):
        browser.js(f"turn({page_number})")
    assert browser.js("document.querySelectorAll('*').length") < 3000
    assert (
        browser.js("(async () => { for (let n = 0; n < 6000; n += 300) await details(n); return chunks.size; })()") <= 6
    )
    assert sheet_of(read_evaluation(folder), None).need.size == rows
