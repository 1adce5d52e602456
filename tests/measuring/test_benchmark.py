"""The benchmark and the comparison of restored sets, from the clean face to the page, on the real engine."""

from __future__ import annotations

import json
import shutil
from xml.etree import ElementTree

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image
from test_comparison import evaluation
from typer.testing import CliRunner

from flows.cli.main import app
from flows.jobs.benchmark import BenchmarkJob
from flows.jobs.comparison import ComparisonJob, side_of, two_sides
from flows.jobs.data_set import JobError
from infra.storage.storage import Storage
from tasks.archive.degradation import SEVERE
from tasks.comparing.facts import BenchmarkFacts, ComparisonFacts
from tasks.comparing.grid import CELLS, NoFaces, default_faces, described, faces_of, write_archive
from tasks.comparing.table import rows
from tasks.measuring.files import read_evaluation, write_evaluation
from tasks.pages.documents.curves import MOST, curves
from tasks.pages.documents.document import Figure, Heading, Paragraph, Table, to_html, to_markdown
from tasks.recipes.condition import RecipeError

CHOSEN = ("severe", "haze")
SETTINGS = {"workers": 1, "threads": 1}
RECIPE = """
name = "careful"
stage = [
  { id = "detect_align" },
  { id = "pisa_sr", use = "compact_restorer" },
  { id = "dehaze", use = "compact_dehaze" },
  { id = "paste_back" },
]"""


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(float) / 255


def psnr(clean, other):
    return -10 * np.log10(np.mean((clean - other) ** 2))


@pytest.fixture(scope="module")
def benched(tmp_path_factory, prefect_server, ray_cluster):
    """One small benchmark: two faces, two degradations, a recipe of two shipped networks."""
    from flows.benchmark_recipes import benchmark_recipes

    folder = tmp_path_factory.mktemp("benchmark")
    recipe = folder / "careful.toml"
    recipe.write_text(RECIPE)
    asked = {"recipes": [str(recipe)], "degradations": list(CHOSEN), "metrics": ["psnr", "ssim"], "settings": SETTINGS}
    return folder / "out", benchmark_recipes(output=str(folder / "out"), price_per_gpu_hour=3.6, **asked)


def test_the_default_faces_are_aligned_and_need_nothing_but_a_package():
    faces = default_faces()
    assert {face.shape for face in faces.values()} == {(512, 512, 3)}
    assert np.array_equal(faces["collins"][:, ::-1], faces["collins_mirrored"])
    skin = faces["collins"][300:340, 170:200].mean(axis=(0, 1))
    assert skin[0] > skin[1] > skin[2] > 0.3, "the cheek is where the template has it"


def test_the_archive_is_the_same_every_time_and_is_not_written_twice(tmp_path):
    place = Storage(tmp_path)
    face = default_faces()["collins"]
    write_archive(place, {"one": face, "two": face[:, ::-1].copy()}, CELLS, 1)
    first = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.rglob("*.png")}
    assert len(first) == 2 * 2 * len(CELLS)
    assert (tmp_path / "archive/clean/one.png").read_bytes() == (tmp_path / "truth/haze/one.png").read_bytes()
    write_archive(place, {"one": face}, CELLS, 1)
    left = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.rglob("*.png")}
    assert left == {p: seen for p, seen in first.items() if p.name == "one.png"}
    assert described(SEVERE) == "blur sigma 3, downscale 8, noise 20, jpeg 30"
    assert described(CELLS["clean"]) == "nothing"


def test_faces_are_squares_and_what_is_not_is_named(tmp_path):
    Image.new("RGB", (64, 64), (90, 60, 30)).save(tmp_path / "b.png")
    Image.new("RGB", (512, 512)).save(tmp_path / "c.png")
    Image.new("RGB", (64, 80)).save(tmp_path / "wide.png")
    (tmp_path / "a.txt").write_text("no picture")
    faces, refused = faces_of(Storage(tmp_path), None)
    assert {name: face.shape for name, face in faces.items()} == dict.fromkeys("bc", (512, 512, 3))
    assert "64×80" in refused["wide.png"]
    assert set(refused) == {"a.txt", "wide.png"}
    assert list(faces_of(Storage(tmp_path), 1)[0]) == ["b"]
    (tmp_path / "b.png").unlink(), (tmp_path / "c.png").unlink()
    with pytest.raises(NoFaces, match="2 files"):
        faces_of(Storage(tmp_path), None)


def test_the_table_keeps_cells_apart():
    names = [(f"{cell}/p{n}", 0) for cell in CHOSEN for n in range(6)]
    before = np.r_[np.full(6, 20.0), np.full(6, 10.0)]
    after = before + np.r_[np.full(6, -1.0), np.linspace(2, 3, 6)]
    found = rows(
        evaluation({"quality": before}, faces_of=names),
        {"mine": evaluation({"quality": after}, faces_of=names)},
        CHOSEN,
    )
    assert [(row.cell, row.faces, row.input, row.verdict) for row in found] == [
        ("severe", 6, 20.0, "worse"),
        ("haze", 6, 10.0, "better"),
    ]
    assert found[0].gain == pytest.approx(-1)
    assert found[1].restored == pytest.approx(12.5)
    assert rows(evaluation({"quality": before}, faces_of=names), {}, CHOSEN) == []


def test_curves_stand_where_the_numbers_are():
    drawn = curves("A < B", ["clean", "mild"], ["haze"], {"input": {"clean": 1.0, "mild": 0.5}, "x&y": {"haze": 0.0}})
    root = ElementTree.fromstring(drawn)
    ns = "{http://www.w3.org/2000/svg}"
    assert root.find(f"{ns}title").text == "A < B"
    assert "x&y: haze 0" in root.find(f"{ns}desc").text
    marks = [
        e.get("transform")[10:-1].split() for e in root.iter(f"{ns}path") if e.get("class") in ("mark s0", "mark s1")
    ]
    points = [(float(x), float(y)) for x, y in marks if float(x) < 600]
    assert [y for _, y in points] == [44.0, 182.0, 320.0], "top, middle and foot of the axis"
    assert points[0][0] < points[1][0] < points[2][0]
    with pytest.raises(ValueError, match="at most"):
        curves("many", ["clean"], [], {str(n): {"clean": n} for n in range(MOST + 1)})


def test_names_of_files_are_no_markup():
    name = "a|b <i>*c*.jpg"
    document = [Heading(name), Paragraph(name), Table(("file", "n"), [(name, "1")]), Figure("x y.jpg", name, name)]
    markdown, page = to_markdown(name, document), to_html(name, document)
    assert "<i>" not in page
    assert "<i>" not in markdown
    assert r"| a\|b \<i\>\*c\*.jpg | 1 |" in markdown
    assert "](x%20y.jpg)" in markdown
    assert 'src="x%20y.jpg"' in page


def test_a_benchmark_says_what_its_pictures_say(benched):
    out, facts = benched
    assert facts.recipes == ("careful",)
    found = {(row.cell, row.metric): row for row in facts.rows}
    assert set(found) == {(cell, metric) for cell in CHOSEN for metric in ("psnr", "ssim")}
    for cell in CHOSEN:
        clean, aged, restored = (
            [pixels(tree / cell / f"{name}.png") for name in default_faces()]
            for tree in (out / "truth", out / "archive", out / "recipes/careful/restored")
        )
        row = found[cell, "psnr"]
        assert row.input == pytest.approx(np.mean([psnr(c, a) for c, a in zip(clean, aged, strict=True)]), abs=0.01)
        assert row.restored == pytest.approx(
            np.mean([psnr(c, r) for c, r in zip(clean, restored, strict=True)]), abs=0.01
        )
        assert row.gain == pytest.approx(row.restored - row.input)
        assert (row.low, row.verdict, row.faces) == (None, "not told apart", 2), "two faces tell nothing"
    assert found["severe", "psnr"].gain > 0.2
    assert found["haze", "psnr"].gain > 1


def test_a_benchmark_leaves_tables_curves_and_pictures(benched):
    out, facts = benched
    written = (out / "benchmark.json").read_text()
    assert BenchmarkFacts.model_validate_json(written) == facts
    assert json.loads(written)["schema"] == 1
    assert pq.read_table(out / "benchmark.parquet").num_rows == len(facts.rows)
    markdown, page = (out / "benchmark.md").read_text(), (out / "index.html").read_text()
    assert "one person" in markdown, "what the numbers do not say"
    for path in ("curves/psnr.svg", "curves/ssim.svg", "pictures/severe.jpg", "pictures/haze.jpg"):
        assert path in markdown
        assert path in page
        assert (out / path).stat().st_size > 500
    assert Image.open(out / "pictures/haze.jpg").size == (3 * 192 + 2 * 4, 192)
    effort = facts.effort["careful"]
    assert set(effort.stages) == {"detect_align", "pisa_sr", "dehaze", "paste_back"}
    assert effort.cost == pytest.approx(effort.seconds / 1000)
    assert effort.pictures == effort.faces == 4


def write_planted(found, tree, storage):
    """The evaluation without severe/collins, and with 9 dB less for haze/collins."""
    faces = found.faces.filter(pc.not_equal(found.faces["key"], "severe/collins"))
    values = [
        value - 9 if key == "haze/collins" else value
        for key, value in zip(faces["key"].to_pylist(), faces["psnr"].to_pylist(), strict=True)
    ]
    place = faces.column_names.index("psnr")
    faces = faces.set_column(place, faces.schema.field("psnr"), pa.array(values, pa.float64()))
    facts = found.facts.model_copy(update={"restored": str(tree), "workspace": None})
    write_evaluation(storage, facts, faces)


def test_a_planted_loss_is_found_shown_and_said(benched, tmp_path):
    """A recipe that has run before, against an evaluation of a copy in which one face was blurred and one lost."""
    from flows.compare_recipes import compare_recipes

    out, _ = benched
    planted = tmp_path / "planted"
    shutil.copytree(out / "recipes/careful/restored", planted)
    spoilt = planted / "haze/collins.png"
    Image.fromarray(cv2.GaussianBlur(np.asarray(Image.open(spoilt)), (0, 0), 6)).save(spoilt)
    (planted / "severe/collins.png").unlink()
    evaluated = str(tmp_path / "evaluated")
    write_planted(read_evaluation(Storage(out / "recipes/careful/evaluation")), planted, Storage(evaluated))
    sides = {"a": str(out.parent / "careful.toml"), "b": evaluated, "against": str(out / "archive")}
    answer = out / "recipes"
    before = {p: p.stat().st_mtime_ns for p in (answer / "careful/restored").rglob("*.png")}
    facts = compare_recipes(
        **sides, truth=str(out / "truth"), output=str(answer), metrics=["psnr", "ssim"], aligned=True, settings=SETTINGS
    )
    assert {p: p.stat().st_mtime_ns for p in (answer / "careful/restored").rglob("*.png")} == before, "only resumed"
    assert (facts.pairs, facts.only_a, facts.only_a_faces) == (3, 1, (("severe/collins", 0),))
    assert [(each.key, each.path_b) for each in facts.worst] == [("haze/collins", "haze/collins.png")]
    assert [(d.metric, d.losses, d.ties) for d in facts.differences] == [("psnr", 1, 2), ("ssim", 0, 3)]
    assert facts.sides["a"].effort.recipe == "careful"
    assert facts.sides["b"].effort is None
    strip = pixels(answer / facts.worst_pictures[0])
    assert strip.shape == (256, 3 * 256 + 2 * 4, 3)
    after = [pixels(tree / "haze/collins.png") for tree in (out / "archive", out / "recipes/careful/restored", planted)]
    for place, picture in enumerate(after):
        panel = strip[:, place * 260 : place * 260 + 256]
        assert np.abs(panel - cv2.resize(picture, (256, 256), interpolation=cv2.INTER_AREA)).mean() < 0.03
    page = (answer / "index.html").read_text()
    assert "haze/collins, face 1" in page
    assert "In A only, 1 faces: severe/collins." in page
    assert ComparisonFacts.model_validate_json((answer / "comparison.json").read_text()) == facts
    assert pq.read_table(answer / "comparison.parquet")["side"].to_pylist().count("a") == 1
    assert not {p.name for p in planted.rglob("*")} - {p.name for p in (out / "archive").rglob("*")}, "only read"


def test_a_side_may_be_many_things(benched, tmp_path):
    out, _ = benched
    job = ComparisonJob(a="recipe:compact", b=str(out / "archive"), against=str(out / "archive"), output=str(tmp_path))
    kinds = {
        "recipe:compact": "recipe",
        str(out / "archive"): "originals",
        str(out / "recipes/careful"): "workspace",
        str(out / "recipes/careful/evaluation"): "evaluation",
        str(out / "recipes/careful/restored"): "folder",
    }
    assert {text: side_of(text, job).kind for text in kinds} == kinds
    made = two_sides(job)[0].run
    assert (made.recipe, made.source, made.workspace) == ("compact", str(out / "archive"), str(tmp_path / "compact"))


def test_what_cannot_be_compared_is_said_before_anything_is_done(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "restored").mkdir()
    photos, restored, out = (str(tmp_path / name) for name in ("photos", "restored", "out"))
    for a, b, output, error, words in (
        (restored, restored, out, JobError, "two different sides"),
        (restored, str(tmp_path / "none"), out, JobError, "nothing at"),
        (restored, "recipe:compcat", out, RecipeError, "did you mean 'compact'"),
        (restored, photos, f"{photos}/out", JobError, "overlap"),
    ):
        with pytest.raises(error, match=words):
            two_sides(ComparisonJob(a=a, b=b, against=photos, output=output))
    with pytest.raises(JobError, match="got pnsr"):
        two_sides(ComparisonJob(a=restored, b=photos, against=photos, output=out, metrics=("psnr", "pnsr")))
    with pytest.raises(JobError, match="two recipes are called 'compact'"):
        BenchmarkJob(output=out, recipes=("compact", "my/compact.toml")).runs()
    with pytest.raises(JobError, match="got rain"):
        BenchmarkJob(output=out, degradations=("haze", "rain")).cells()


def test_the_commands_refuse_in_words(tmp_path):
    runner = CliRunner()
    same = runner.invoke(app, ["compare", str(tmp_path), str(tmp_path), "--against", str(tmp_path / "photos")])
    assert same.exception.exit_code == 2
    stage = runner.invoke(app, ["benchmark", "--set", "identity.threshold=1"])
    assert stage.exit_code == 2
    assert "recipe" in stage.output
    assert not (tmp_path / "benchmark").exists()
