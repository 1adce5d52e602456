"""The whole story on the real engine: Prefect, Ray, Parquet, files. Pictures are small, stages are a few lines."""

from __future__ import annotations

import hashlib
import shutil

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.usefixtures("prefect_server", "ray_cluster")

PICTURES = 12


def picture(path, value, size=48):
    path.parent.mkdir(parents=True, exist_ok=True)
    shade = np.linspace(0.8, 1.0, size)[:, None, None] * value
    Image.fromarray((np.broadcast_to(shade, (size, size, 3)) * 255).astype(np.uint8)).save(path)


@pytest.fixture
def archive(tmp_path):
    """Two folders of pictures, a duplicate, a text file, a cut one."""
    folder = tmp_path / "archive"
    for n in range(PICTURES):
        picture(folder / ("a" if n % 2 else "b/c") / f"{n:02}.png", 0.1 + n / 20)
    shutil.copy(folder / "a" / "01.png", folder / "again.png")
    (folder / "letter.jpg").write_text("Dear Sir")
    (folder / "cut.png").write_bytes((folder / "a" / "03.png").read_bytes()[:60])
    return folder


@pytest.fixture
def recipe(tmp_path):
    """Writes a recipe file from its stages."""

    def write(*stages, name="story"):
        text = f'name = "{name}"\n' + "".join(f"[[stage]]\n{stage}\n" for stage in (*stages,))
        path = tmp_path / f"{name}.toml"
        path.write_text(text)
        return str(path)

    return write


DETECT = 'id = "detect_align"\nsettings = { detector = "none" }'
PASTE = 'id = "paste_back"'


def brighten(journal="", amount=0.1, seconds=0.0):
    settings = f'{{ amount = {amount}, seconds = {seconds}, journal = "{journal}" }}'
    return f'id = "brighten"\nuse = "fake_stages:Brighten"\nsettings = {settings}'


def run(archive, workspace, recipe, **more):
    from flows.restore_dataset import restore_dataset

    settings = {"workers": 2, "threads": 1, "retries": 2} | more.pop("settings", {})
    return restore_dataset(source=str(archive), workspace=str(workspace), recipe=recipe, settings=settings, **more)


def tree(folder):
    return {p.relative_to(folder).as_posix(): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def hashes(folder):
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file()
    }


def test_an_archive_is_restored_accounted_for_and_not_restored_twice(archive, tmp_path, recipe):
    journal, workspace, before = tmp_path / "journal", tmp_path / "ws", hashes(archive)
    story = recipe(DETECT, brighten(journal), PASTE)

    first = run(archive, workspace, story)
    assert first["found"] == PICTURES + 3 == sum(first["outcomes"].values())
    assert first["outcomes"]["restored"] == PICTURES + 1
    assert (first["outcomes"]["skipped"], first["outcomes"]["quarantined"]) == (1, 1)
    assert hashes(archive) == before, "originals are never written to"
    restored = tree(workspace / "restored")
    assert set(restored) == {name for name in tree(archive) if name.split(".")[0] not in ("letter", "cut")}
    bright = np.asarray(Image.open(workspace / "restored/a/01.png")).astype(int)
    assert abs(bright.mean() - np.asarray(Image.open(archive / "a/01.png")).mean() - 25.5) < 1
    assert (workspace / "report/index.html").stat().st_size > 1000
    worked_on = journal.read_text()
    assert len(worked_on.split()) == PICTURES

    second = run(archive, workspace, story)
    assert second["outcomes"] == first["outcomes"]
    assert second["stages"] == {}, "a second run makes no stage call"
    assert journal.read_text() == worked_on
    assert tree(workspace / "restored") == restored, "and touches no output"
