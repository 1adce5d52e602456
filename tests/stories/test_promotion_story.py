"""Nights on the real engine: a changed recipe is refused, promoted, rolled back, and no night does a thing twice."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest
import tiny_metrics
from PIL import Image, ImageFilter
from skimage import data
from typer.testing import CliRunner

pytestmark = pytest.mark.usefixtures("prefect_server", "ray_cluster")

PICTURES = 6
"""As few as can tell anything."""
GENEROUS = {"margin": 1, "score_drop": 1, "identity_floor": -1, "identity_drop": 2}


def picture(path, number):
    """A face of 512 pixels; every number shows a little more of its surroundings."""
    path.parent.mkdir(parents=True, exist_ok=True)
    face = Image.fromarray(data.astronaut()).crop((140 - number, 30 - number % 5, 300 + number, 190 + number))
    face.resize((512, 512), Image.Resampling.BICUBIC).save(path)


@pytest.fixture
def archive(tmp_path):
    folder = tmp_path / "archive"
    for n in range(PICTURES):
        picture(folder / ("a" if n % 2 else "b") / f"{n}.png", n)
    (folder / "letter.jpg").write_text("Dear Sir")
    return folder


def recipe(folder, journal, *more):
    stages = [
        'id = "detect_align"\nsettings = { detector = "none" }',
        f'id = "brighten"\nuse = "fake_stages:Brighten"\nsettings = {{ amount = 0.02, journal = "{journal}" }}',
        *more,
        'id = "paste_back"',
    ]
    path = folder / "story.toml"
    path.write_text('name = "story"\n' + "".join(f"[[stage]]\n{stage}\n" for stage in stages))
    return str(path)


def swap(folder):
    """A stage that gives everybody the same blurred face."""
    other = np.asarray(Image.fromarray(data.astronaut()).rotate(180).filter(ImageFilter.GaussianBlur(6)), np.float32)
    np.save(folder / "other.npy", other / 255)
    return f'id = "swap"\nuse = "fake_stages:Swap"\nsettings = {{ file = "{folder / "other.npy"}" }}'


@pytest.fixture
def night(archive, tmp_path):
    """A night with a tiny network that judges identity, and no weights but those that come with the package."""
    from flows.reprocess_nightly import reprocess_nightly

    store = tiny_metrics.write_store(tmp_path / "weights", without=("niqe_pristine",))
    given = {"workers": 1, "threads": 1, "weights_dir": str(store.parent), "weights_table": str(store)}

    def night(recipe, promotion=None, **more):
        asked = {"source": str(archive), "workspace": str(tmp_path / "ws"), "recipe": recipe}
        settings = given | {"promotion": promotion or {}}
        return reprocess_nightly(**asked, settings=settings, **more).model_dump(mode="json")

    return night


def hashes(workspace):
    root = workspace / "restored"
    found = sorted(p for p in root.rglob("*") if p.is_file())
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


def mpsr(*arguments):
    from flows.cli.main import app

    done = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert done.exit_code == 0, (done.output, done.exception)
    return json.loads(done.stdout)


def test_nights_under_a_changed_recipe(archive, night, tmp_path, monkeypatch):
    from prefect.artifacts import Artifact

    from flows.gate import night as promotion

    workspace, journal = tmp_path / "ws", tmp_path / "journal"
    first = night(recipe(tmp_path, journal))
    older, worked = hashes(workspace), len(journal.read_text().split())
    assert (first["outcomes"]["restored"], first["promotion"], worked) == (PICTURES, None, PICTURES)

    # A changed recipe gives everybody the same poor face. The night dies before it has decided: nothing has changed.
    changed = recipe(tmp_path, journal, swap(tmp_path))
    picture(archive / "new.png", 30)
    with monkeypatch.context() as patch:
        patch.setattr(promotion, "judge", power_cut)
        with pytest.raises(KeyboardInterrupt):
            night(changed)
    assert hashes(workspace) == older
    done = len(journal.read_text().split())
    assert done == 2 * PICTURES + 1

    # The next night goes on from the candidate, sees the regression and the swap, and replaces nothing.
    refused = night(changed)
    assert len(journal.read_text().split()) == done
    assert refused["promotion"]["counts"] == {"keep": PICTURES, "original": 1}
    score, identity = refused["promotion"]["refused_because"]
    assert "interval of the difference -0." in score
    assert f"0 → {PICTURES}" in identity
    assert refused["outcomes"] | {"restored": PICTURES, "left_alone": 1, "skipped": 1} == refused["outcomes"]
    assert hashes(workspace) == older | {"new.png": hashlib.sha256((archive / "new.png").read_bytes()).hexdigest()}
    told = mpsr("explain", workspace / "restored/a/1.png")
    assert told["promotion"]["did"] == "kept"
    assert "the run: score" in told["promotion"]["why"]
    assert {row["stage"] for row in told["stages"]} == {"detect_align", "brighten", "paste_back"}
    page = (workspace / "promotions" / f"{told['promotion']['id']}.md").read_text()
    assert "nothing promoted" in page
    assert "Compact quality" in page
    assert "AdaFace" in page
    assert Artifact.get("promotion").data == page, "the dashboard shows the same"

    # From then on it is quiet, but for a further path of a kept picture: it gets the older result.
    shutil.copy(archive / "a/1.png", archive / "further.png")
    (archive / "new.png").unlink()
    assert night(changed)["promotion"] is None
    assert hashes(workspace)["further.png"] == older["a/1.png"]

    # Asked again, within wider bounds: the new results replace the older ones, from the candidate that is there.
    promoted = night(changed, GENEROUS, again=True)
    assert promoted["promotion"]["counts"] == {"promote": PICTURES}
    assert len(journal.read_text().split()) == done, "nothing is restored a second time"
    newer = hashes(workspace)
    assert all(newer[path] != older[path] for path in older)
    assert newer["further.png"] == newer["a/1.png"]
    assert mpsr("explain", workspace / "restored/a/1.png")["promotion"]["did"] == "promoted"
    assert not (workspace / "candidates").exists() or not list((workspace / "candidates").iterdir())
    assert mpsr("status", "-w", workspace)["last_promotion"]["state"] == "applied"

    # A rollback gives every byte back, and the same recipe is left alone from then on.
    back = mpsr("rollback", workspace)
    assert back["pictures"] == PICTURES
    assert {path: hashes(workspace)[path] for path in older} == older
    assert mpsr("rollback", workspace, back["id"])["pictures"] == 0, "a second time there is nothing to do"
    assert night(changed, GENEROUS)["promotion"] is None
    assert {path: hashes(workspace)[path] for path in older} == older
    assert [row["state"] for row in mpsr("promotions", workspace)["promotions"]] == ["applied", "rolled_back"]
    status = mpsr("status", "-w", workspace)
    assert sum(status["outcomes"].values()) == status["found"] == PICTURES + 2


def power_cut(*_):
    raise KeyboardInterrupt
