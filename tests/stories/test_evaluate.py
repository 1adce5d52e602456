"""Evaluating restored pictures: files, pairing, and the whole protocol on the real engine in miniature."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
from collections import Counter

import cv2
import journalling
import numpy as np
import pyarrow as pa
import pytest
import tiny_metrics as tiny
from typer.testing import CliRunner

from infra.ledger.rows import FileRow
from infra.problems import ForPeople
from infra.storage.storage import Storage
from tasks.faces import geometry
from tasks.measuring.challenge import Overall, Placed, Protocol
from tasks.measuring.files import (
    COLUMNS,
    FACTS,
    EvaluationFacts,
    EvaluationMissing,
    faces_schema,
    read_evaluation,
    write_evaluation,
)
from tasks.measuring.matching import Rules, Trees, matched
from tasks.measuring.pairs import INPUT, RESTORED, PairFile

DATASET = "ntire2025-realworld-face"
IMAGES = {"CelebA": 1, "LFW-Test": 2, "CelebChild-Test": 1, "WebPhoto-Test": 1, "Wider-Test": 1}
ALL = sum(IMAGES.values())
SIDE = 192
DETECTOR = """
[[weights]]
name = "compact_landmarks"
title = "the compact detector"
file = "landmarks.safetensors"
package = "tasks/models/weights/landmarks.safetensors"
licence = "test"
"""


class TestFiles:
    def test_an_evaluation_reads_as_it_was_written(self, tmp_path):
        rows = [face(points=[0.5] * 10, niqe=3.5), face(path="b.png", key="b", face=-1, problem="corrupt", niqe=None)]
        faces = pa.Table.from_pylist(rows, schema=faces_schema(["niqe", "quality"]))
        with pytest.raises(EvaluationMissing, match="mpsr evaluate"):
            read_evaluation(Storage(tmp_path))
        facts = EvaluationFacts(sample=0.5, overall=Overall(images=1, means={"niqe": 3.5}, score_missing=("fid",)))
        write_evaluation(Storage(tmp_path), facts, faces)
        again = read_evaluation(Storage(tmp_path))
        assert again.faces.equals(faces)
        assert again.metrics == ("niqe", "quality")
        assert again.facts == facts
        with pytest.raises(ValueError, match="expected the columns"):
            write_evaluation(Storage(tmp_path), facts, faces.drop_columns(["key"]))

    def test_what_other_versions_wrote_is_read_and_what_newer_ones_mean_otherwise_is_not(self, tmp_path):
        write_evaluation(Storage(tmp_path), EvaluationFacts(), pa.Table.from_pylist([face()], schema=faces_schema([])))
        (tmp_path / FACTS).write_text('{"schema": 1, "overall": {"fid": 60.0}, "of another version": 1}')
        assert read_evaluation(Storage(tmp_path)).facts.overall.fid == 60.0
        (tmp_path / FACTS).write_text('{"schema": 2}')
        with pytest.raises(EvaluationMissing, match="newer"):
            read_evaluation(Storage(tmp_path))


def face(**more):
    blank = dict.fromkeys(COLUMNS.names)
    known = {"path": "a.png", "key": "a", "face": 0, "subset": "", "pair_id": "0" * 64, "restored_sha256": "1" * 64}
    return blank | known | {"problem": "", "problem_text": ""} | more


class TestMatching:
    def test_a_picture_belongs_to_the_input_of_its_name_whatever_the_suffix(self):
        pair = self.pair(["a/b.png"], ["a/b.jpg", "b.jpg", "a/c.jpg"])["a/b.png"]
        assert (pair.key, pair.input_path, pair.problem) == ("a/b", "a/b.jpg", "")
        assert pair.files == {RESTORED: PairFile("a/b.png", "1" * 64), INPUT: PairFile("a/b.jpg", "2" * 64)}

    def test_the_very_same_path_decides_between_inputs_of_one_name(self):
        found = self.pair(["x.png", "x.jpg"], ["x.png", "x.jpg"])
        assert {path: pair.input_path for path, pair in found.items()} == {"x.png": "x.png", "x.jpg": "x.jpg"}
        assert len({pair.key for pair in found.values()}) == 2, "and each keeps a key of its own"

    def test_what_a_name_does_not_decide_is_refused_by_name(self):
        pair = self.pair(["x.png"], ["x.jpg", "x.webp"])["x.png"]
        assert pair.problem == "ambiguous"
        assert "x.jpg, x.webp" in pair.problem_text
        assert self.pair(["x.png"], [])["x.png"].problem == "input_missing"

    def test_a_data_set_goes_by_subset_and_name_and_by_its_table(self):
        placed = {"x": Placed("Wider-Test", geometry.TEMPLATE)}
        rules = Rules(protocol(), placed)
        found = self.pair(["out/CelebA/y.png", "flat/x.png", "odd/z.png"], ["test/CelebA/y.png", "x.png"], rules)
        assert {path: pair.problem for path, pair in found.items()} == {
            "out/CelebA/y.png": "no_landmarks",
            "flat/x.png": "",
            "odd/z.png": "no_subset",
        }
        assert found["flat/x.png"].subset == "Wider-Test"
        assert found["flat/x.png"].points == geometry.TEMPLATE.reshape(-1).tolist()
        assert not rules.counts("CelebA/y.jpg"), "the challenge counts PNG files only"

    def test_a_pair_is_known_by_its_contents(self):
        one, other = (self.pair(["a.png"], ["a.jpg"], shas=shas)["a.png"].pair_id for shas in ("12", "13"))
        assert one != other
        said = f"{'1' * 64}\n{'2' * 64}\n-\n-"
        assert one == hashlib.sha256(said.encode()).hexdigest()

    def test_a_sample_is_a_share_of_the_names_and_always_the_same(self):
        names = [f"{n}.png" for n in range(400)]
        few, more = ({n for n in names if Rules(sample=share).counts(n)} for share in (0.1, 0.5))
        assert 20 < len(few) < 60
        assert few < more

    def test_only_inputs_that_belong_to_something_are_looked_at(self, tmp_path):
        for path in ("out/a.png", "out/notes.txt", "in/a.jpg", "in/b.jpg", "in/c.jpg", "in/c.xmp"):
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).write_bytes(b"")
        trees = Trees({RESTORED: Storage(tmp_path / "out"), INPUT: Storage(tmp_path / "in")}, Rules())
        assert [info.path.partition("/")[2] for info in trees.walk()] == ["a.png", "a.jpg"]
        assert trees.unrestored == 2

    def pair(self, restored, inputs, rules=None, shas="12"):
        def rows(paths, digit):
            return [FileRow(path=path, image_id=digit * 64, width=512, height=512) for path in paths]

        files = {RESTORED: rows(restored, shas[0]), INPUT: rows(inputs, shas[1])}
        return {pair.path: pair for pair in matched(files, rules or Rules())}


def protocol():
    subsets = {name: {"images": n, "identity_threshold": 0.5} for name, n in IMAGES.items()}
    return Protocol(subsets=subsets, metrics=("niqe",))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Five subsets, restored pictures sharper than the inputs; in one of them another person."""
    root = tmp_path_factory.mktemp("miniature")
    rows = []
    for n, (subset, images) in enumerate(IMAGES.items()):
        for k in range(images):
            name = f"{subset[:2]}_{n}{k}"
            person = somebody(10 * n + k)
            save(root / "truth" / subset / f"{name}.png", person)
            save(root / "lq" / subset / f"{name}.png", cv2.GaussianBlur(person, (0, 0), 2))
            save(root / "out" / subset / f"{name}.png", somebody(99) if (n, k) == (1, 1) else person * 0.98)
            rows.append([name, subset, *geometry.TEMPLATE.reshape(-1)])
    points = [
        f"{what}_{axis}" for what in ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right") for axis in "xy"
    ]
    with (root / "lq" / "test_face.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["filename", "dataset", *points], *rows])
    (root / "out" / "notes.txt").write_text("not a picture, and not counted")
    return root


@pytest.fixture
def settings(tmp_path_factory, monkeypatch, dataset):
    """The data set's own file with a picture or two per subset, and weights of a few kilobytes."""
    from flows.evaluation import run as evaluation_run
    from flows.jobs import data_set as job

    manifests = dataset / "data_manifests"
    manifests.mkdir(exist_ok=True)
    text = (job.DATA_MANIFESTS / f"{DATASET}.toml").read_text()
    counts = iter(n for name in re.findall(r"subsets\.([\w-]+)\]", text) for n in [IMAGES[name]])
    (manifests / f"{DATASET}.toml").write_text(re.sub(r"(?m)^images = \d+", lambda _: f"images = {next(counts)}", text))
    monkeypatch.setattr(job, "DATA_MANIFESTS", manifests)
    monkeypatch.setattr(evaluation_run, "FACTORY", "journalling:build")
    weights = dataset / "weights"
    if not weights.exists():
        tiny.write_store(weights)
        with (weights / "table.toml").open("a") as table:
            table.write(DETECTOR)
    return {
        "weights_dir": str(weights),
        "weights_table": str(weights / "table.toml"),
        "engine": "local",
        "workers": 1,
        "threads": 1,
        "micro_batch": 2,
        "report_thumbnails": False,
    }


@pytest.fixture
def reference(dataset, settings):
    """The miniature, evaluated without interruption."""
    return evaluated(dataset, "reference", settings)


def evaluated(dataset, output, settings, **more):
    from flows.evaluation import evaluate
    from flows.jobs.evaluation import EvaluationJob

    asked = {"restored": dataset / "out", "against": dataset / "lq", "output": dataset / output, "dataset": DATASET}
    return evaluate(EvaluationJob.model_validate({k: str(v) for k, v in asked.items()} | {"settings": settings} | more))


class TestProtocol:
    def test_the_miniature_is_judged_as_the_challenge_judges(self, dataset, reference):
        facts, faces = reference.facts, reference.faces
        assert faces.num_rows == ALL
        assert set(reference.metrics) == {"niqe", "quality", "sharpness", "identity"}
        rows = {row["key"]: row for row in faces.to_pylist()}
        assert [row["key"] for row in faces.to_pylist()] == sorted(rows)
        assert {row["problem"] for row in rows.values()} == {""}
        assert {name: (s.images, s.expected) for name, s in facts.subsets.items()} == {
            name: (n, n) for name, n in IMAGES.items()
        }
        assert facts.overall.means["niqe"] == pytest.approx(np.mean(faces["niqe"].to_numpy()))
        assert facts.overall.fid > 0
        assert facts.overall.score is None
        assert facts.overall.score_missing == ("clipiqa", "maniqa", "musiq", "qalign")
        assert all("pyiqa" in facts.missing[name] for name in facts.overall.score_missing)

    def test_a_planted_swap_of_identities_is_caught(self, dataset, reference):
        swapped = [row["key"] for row in reference.faces.to_pylist() if row["identity"] < 0.6]
        assert swapped == ["LFW-Test/LF_11"]
        failures = {name: s.identity_failures for name, s in reference.facts.subsets.items()}
        assert failures == {name: int(name == "LFW-Test") for name in IMAGES}
        assert (reference.facts.overall.identity_failures, reference.facts.overall.valid) == (1, True)

    def test_the_numbers_lie_in_files_that_others_read(self, dataset, reference):
        folder = dataset / "reference"
        name = f"{dataset.name}--out"
        totals = list(csv.reader((folder / f"{name}_total.csv").open()))
        assert [row[0] for row in totals][1:6] == list(IMAGES)
        assert len(list(csv.reader((folder / f"{name}.csv").open()))) == 1 + ALL
        assert "MiPortrait" in (folder / "row.md").read_text()
        assert read_evaluation(Storage(folder)).faces.equals(reference.faces)
        assert (folder / "report/index.html").stat().st_size > 1000

    def test_without_its_table_of_landmarks_identity_is_missing_and_says_so(self, dataset, settings, reference):
        table = dataset / "lq" / "test_face.csv"
        away = table.rename(dataset / "elsewhere.csv")
        try:
            facts = evaluated(dataset, "untabled", settings, metrics=["sharpness", "identity"]).facts
            assert "--landmarks FILE" in facts.missing["identity"]
            assert set(facts.overall.means) == {"sharpness"}
            told = evaluated(dataset, "untabled", settings, metrics=["identity"], landmarks=str(away), sample=0.4)
            (row, *_) = told.faces.to_pylist()
            (same,) = [other for other in reference.faces.to_pylist() if other["key"] == row["key"]]
            assert row["identity"] == same["identity"]
        finally:
            away.rename(table)


@pytest.mark.usefixtures("ray_cluster")
def test_what_was_cut_short_goes_on_and_gives_the_same_numbers(dataset, settings, reference, monkeypatch):
    from flows.session.progress import Progress

    settings["engine"] = "ray"  # workers in processes of their own
    (dataset / "cut").mkdir()
    (dataset / "cut" / journalling.SLOWLY).touch()

    def interrupt(*args, **more):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(Progress, "advanced", interrupt)
        with pytest.raises(KeyboardInterrupt):
            evaluated(dataset, "cut", settings | {"micro_batch": 1})
    journal = dataset / "cut" / journalling.JOURNAL
    done = len(journal.read_text().splitlines())
    everything = len((dataset / "reference" / journalling.JOURNAL).read_text().splitlines())
    assert 0 < done < everything, "it was cut in the middle"
    assert not (dataset / "cut/evaluation.json").exists()

    (dataset / "cut" / journalling.SLOWLY).unlink()
    evaluated(dataset, "cut", settings | {"micro_batch": 1})
    lines = journal.read_text().splitlines()
    assert len(lines) == len(set(lines)) == everything, "nothing is measured twice, nothing is left out"
    cut_bytes, whole_bytes = ((dataset / name / "evaluation.parquet").read_bytes() for name in ("cut", "reference"))
    assert cut_bytes == whole_bytes


def test_a_further_metric_computes_only_itself(dataset, settings):
    evaluated(dataset, "further", settings, metrics=["sharpness"])
    journal = dataset / "further" / journalling.JOURNAL
    assert counted(journal) == {"sharpness": ALL}
    more = {"metrics": ["sharpness", "psnr", "ssim"], "truth": str(dataset / "truth")}
    with_truth = evaluated(dataset, "further", settings, **more)
    assert counted(journal) == {"sharpness": 2 * ALL, "psnr": ALL, "ssim": ALL}, "the truth is part of a pair"
    wider = evaluated(dataset, "further", settings, **(more | {"metrics": ["ssim", "quality"]}))
    assert counted(journal) == {"sharpness": 2 * ALL, "psnr": ALL, "ssim": ALL, "quality": ALL}
    assert wider.faces["ssim"].equals(with_truth.faces["ssim"])
    assert wider.metrics == ("ssim", "quality")


def test_what_a_cache_says_counts_only_with_the_ledger(dataset, settings, prefect_server):
    from flows.evaluate_dataset import evaluate_dataset

    asked = {"restored": str(dataset / "out"), "against": str(dataset / "lq"), "output": str(dataset / "lost")}
    asked |= {"dataset": DATASET, "metrics": ["sharpness"], "settings": settings}
    evaluate_dataset(**asked)
    first = read_evaluation(Storage(dataset / "lost")).faces
    shutil.rmtree(dataset / "lost")
    evaluate_dataset(**asked)
    assert read_evaluation(Storage(dataset / "lost")).faces.equals(first)


def test_fid_takes_the_first_pictures_by_path_and_says_when_they_are_too_few(dataset, settings):
    from flows.jobs import data_set as job

    manifest = job.DATA_MANIFESTS / f"{DATASET}.toml"
    manifest.write_text(re.sub(r"(?m)^fid_cap = \d+", "fid_cap = 3", manifest.read_text()))
    three = evaluated(dataset, "capped", settings, metrics=["fid"])
    assert counted(dataset / "capped" / journalling.JOURNAL) == {"fid": 3}
    held = list((dataset / "capped/intermediates").rglob("*.arrow"))
    assert held, "features stay, so that FID can be made again"
    again = evaluated(dataset, "capped", settings, metrics=["fid"])
    assert again.facts.overall.fid == three.facts.overall.fid > 0
    held[0].unlink()
    evaluated(dataset, "capped", settings, metrics=["fid"])
    assert 3 < len((dataset / "capped" / journalling.JOURNAL).read_text().splitlines()) < 6, "what is lost is made anew"
    none = evaluated(dataset, "capped", settings, metrics=["fid"], sample=0.001).facts
    assert (none.overall.fid, none.metrics) == (None, {})
    assert "at least 2 faces" in none.missing["fid"]


def test_whole_pictures_are_cut_where_the_input_shows_faces(tmp_path, settings):
    from skimage import data

    photo = data.astronaut().astype(np.float32) / 255
    wide = np.pad(photo, ((0, 0), (0, 88), (0, 0)), constant_values=0.5)
    good, empty = cv2.GaussianBlur(wide, (0, 0), 1), np.full_like(wide, 0.5)
    for name, picture in {"good": good, "empty": empty, "small": good, "cut": good, "alone": good}.items():
        save(tmp_path / "in" / f"{name}.png", picture)
        save(tmp_path / "out" / f"{name}.png", wide if picture is good else picture)
    save(tmp_path / "out" / "small.png", wide[:300])
    (tmp_path / "in" / "alone.png").unlink()
    whole = (tmp_path / "out" / "cut.png").read_bytes()
    (tmp_path / "out" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "out" / "letter.jpg").write_text("Dear Sir")
    before = hashes(tmp_path)

    arguments = ["evaluate", tmp_path / "out", "--against", tmp_path / "in", "--output", tmp_path / "numbers"]
    told = invoke([*arguments, "--metrics", "sharpness,identity,musiq"], settings)
    assert told.exit_code == 1, "pictures could not be measured"
    evaluation = read_evaluation(Storage(tmp_path / "numbers"))
    problems = {row["path"]: row["problem"] for row in evaluation.faces.to_pylist() if row["problem"]}
    assert problems == {
        "alone.png": "input_missing",
        "cut.png": "corrupt",
        "empty.png": "no_face",
        "letter.jpg": "not_an_image",
        "small.png": "sizes_differ",
    }
    (row,) = [row for row in evaluation.faces.to_pylist() if row["path"] == "good.png"]
    assert row["identity"] > 0.9
    assert np.abs(np.array(row["points"]).reshape(5, 2) - geometry.TEMPLATE).max() < 20
    back = geometry.transform(
        np.array(row["points"]).reshape(5, 2), geometry.inverse(np.array(row["matrix"]).reshape(2, 3))
    )
    assert 100 < back[:, 1].mean() < 200, "the astronaut's face is in the upper part"
    assert {name: n for name, n in hashes(tmp_path).items() if not name.startswith("numbers")} == before
    assert "musiq" in told.output
    assert "expected pictures of one size" in told.output

    answer = invoke([*arguments, "--metrics", "sharpness", "--sample", "0.0001", "--json"], settings)
    assert (answer.exit_code, json.loads(answer.stdout)["overall"]["images"]) == (0, 0)


class TestRefusals:
    @pytest.mark.parametrize(
        ("asked", "sentence"),
        [
            ({"metrics": ["beauty"]}, "beauty"),
            ({"dataset": "demo"}, "no section"),
            ({"dataset": "nowhere"}, "no data set 'nowhere'"),
            ({"output": "out/numbers"}, "only read"),
            ({"restored": "nothing-here"}, "no folder with restored pictures"),
            ({"against": None}, "--against"),
            ({"sample": 2.0}, "less than or equal to 1"),
        ],
    )
    def test_what_cannot_be_is_said_before_anything_is_written(self, dataset, settings, monkeypatch, asked, sentence):
        from flows.evaluation.run import open_evaluation_run
        from flows.jobs import data_set as job
        from flows.jobs.evaluation import evaluation_job

        (job.DATA_MANIFESTS / "demo.toml").write_text('source = "demo/archive"\nworkspace = "demo/ws"\n')
        given = {"restored": "out", "against": "lq", "output": "refused", "dataset": None} | asked
        given = {k: str(dataset / v) if k in ("restored", "against", "output") and v else v for k, v in given.items()}
        with (
            pytest.raises(ForPeople, match=sentence) as refused,
            open_evaluation_run(evaluation_job(settings=settings, **given)),
        ):
            pass
        assert refused.value.exit_code == 2
        assert not (dataset / "refused").exists()
        assert not (dataset / "out/numbers").exists()


def counted(journal):
    return Counter(line.split()[1] for line in journal.read_text().splitlines())


def hashes(folder):
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def invoke(arguments, settings):
    from flows.cli.main import app

    chosen = [f"--set={name}={json.dumps(value)}" for name, value in settings.items()]
    return CliRunner().invoke(app, [*map(str, arguments), *chosen])


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.rint(pixels[..., ::-1].clip(0, 1) * 255))


def somebody(seed):
    """Large patches of light, by which the tiny network of recognition tells people apart."""
    rng = np.random.default_rng(seed)
    patches = cv2.resize(rng.random((7, 7, 3), np.float32), (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    return patches * 0.8 + 0.1 + rng.normal(0, 0.02, (SIDE, SIDE, 3)).astype(np.float32)
