"""The Python door, and the examples that show it."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from places import ROOT

from mpsr import Restorer, restore_folder

EXAMPLES = ROOT / "docs" / "examples"


@pytest.fixture(scope="module")
def portrait():
    from skimage import data

    return np.asarray(Image.fromarray(data.astronaut()).reduce(4).resize((512, 512)))


@pytest.fixture(scope="module")
def restorer():
    with Restorer("compact") as restorer:
        yield restorer


def test_a_picture_comes_back_with_its_faces_scores_and_verdict(restorer, portrait):
    result = restorer(portrait)
    assert (result.outcome, len(result.faces)) == ("restored", 1)
    assert result.image.size == (512, 512)
    left, top, width, height = result.faces[0].box
    assert left < 220 < left + width
    assert top < 120 < top + height
    assert 0 < result.scores["quality.restored"] < 1
    changed = np.abs(np.asarray(result.image, int) - portrait).mean(axis=2)
    assert changed[int(top) : int(top + height), int(left) : int(left + width)].mean() > 5 * changed[400:].mean()


def test_every_way_to_give_a_picture_means_the_same_pixels(restorer, portrait, tmp_path):
    image = Image.fromarray(portrait)
    image.save(tmp_path / "a.png")
    sink = io.BytesIO()
    image.save(sink, "PNG")
    ways = [portrait, portrait / 255.0, image, tmp_path / "a.png", str(tmp_path / "a.png"), sink.getvalue()]
    assert len({np.asarray(result.image).tobytes() for result in restorer.many(ways)}) == 1


def test_what_cannot_be_read_has_an_outcome_and_no_picture(restorer, portrait):
    nonsense, empty, wall = restorer.many([b"nonsense", b"", np.full((64, 64), 90, np.uint8)])
    assert [each.outcome for each in (nonsense, empty, wall)] == ["skipped", "skipped", "left_alone"]
    assert (nonsense.image, nonsense.data, nonsense.faces) == (None, b"", ())
    assert np.asarray(wall.image).tobytes() == np.full((64, 64), 90, np.uint8).tobytes()


@pytest.mark.parametrize("wrong", [np.zeros((3, 4, 4, 3)), np.zeros((4, 4, 5)), np.zeros((4, 4), np.int32)])
def test_an_array_that_is_no_picture_is_refused(restorer, wrong):
    with pytest.raises(ValueError, match="expected"):
        restorer(wrong)


def test_threads_get_their_own_results_and_nothing_is_left_behind(restorer, portrait):
    pictures = [portrait[: 300 + n] for n in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(restorer, pictures))
    alone = [restorer(picture) for picture in pictures]
    sums = [[hashlib.sha256(result.data).hexdigest() for result in results] for results in (together, alone)]
    assert [result.image.height for result in together] == [300, 301, 302, 303]
    assert sums[0] == sums[1]
    assert not [path for path in Path(restorer._folder.name).rglob("*") if path.is_file()]


def test_pictures_given_at_once_are_restored_as_each_would_be_but_for_rounding(restorer, portrait):
    pictures = [portrait[: 300 + n] for n in range(3)]
    for one, of_many in zip(map(restorer, pictures), restorer.many(pictures), strict=True):
        levels = [np.asarray(result.image).astype(int) for result in (one, of_many)]
        assert np.abs(levels[0] - levels[1]).max() <= 1


def test_a_folder_is_restored_from_any_thread_and_signals_are_let_be(tmp_path, portrait):
    import signal

    (tmp_path / "photos").mkdir()
    Image.fromarray(portrait).save(tmp_path / "photos/a.png")
    before, summaries = signal.getsignal(signal.SIGINT), []
    thread = threading.Thread(target=lambda: summaries.append(restore_folder(tmp_path / "photos", tmp_path / "out")))
    thread.start()
    thread.join()
    assert summaries[0].outcomes["restored"] == 1
    assert (tmp_path / "out/restored/a.png").exists()
    assert signal.getsignal(signal.SIGINT) is before


def test_the_door_is_light_and_refuses_strangers(tmp_path):
    light = "import mpsr, sys; print(*{'torch', 'ray', 'prefect'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", light], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/__init__.py").touch()
    strange = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; import mpsr"
    done = subprocess.run([sys.executable, "-c", strange], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "another package or a folder of that name is in the way" in done.stderr


class TestExamples:
    def test_the_notebook(self):
        names: dict[str, object] = {}
        for cell in json.loads((EXAMPLES / "notebook.ipynb").read_text())["cells"]:
            if cell["cell_type"] == "code":
                exec("".join(cell["source"]), names)
        assert names["result"].outcome == "restored"

    def test_the_web_form(self, monkeypatch, portrait):
        pytest.importorskip("python_multipart")
        from fastapi.testclient import TestClient

        monkeypatch.syspath_prepend(EXAMPLES)
        import web_form

        sink = io.BytesIO()
        Image.fromarray(portrait).save(sink, "JPEG")
        browser = TestClient(web_form.app)
        assert "form" in browser.get("/").text
        answer = browser.post("/restore", files={"picture": sink.getvalue()})
        assert (answer.headers["content-type"], answer.headers["x-outcome"]) == ("image/jpeg", "restored")
        assert Image.open(io.BytesIO(answer.content)).size == (512, 512)
        assert browser.post("/restore", files={"picture": b"nonsense"}).status_code == 422
        web_form.restorer.close()

    def test_the_web_form_is_as_short_as_it_is_said_to_be(self):
        tree = ast.parse((EXAMPLES / "web_form.py").read_text())
        assert len(ast.unparse(tree.body[1:]).splitlines()) <= 30

    def test_the_recipe_and_the_stage(self, monkeypatch, portrait):
        monkeypatch.syspath_prepend(EXAMPLES)
        with Restorer(str(EXAMPLES / "own_recipe.toml")) as mine:
            (face,) = mine(portrait).faces
        assert face.outcome in ("restored", "fallback")
