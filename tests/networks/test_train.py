"""The training loop: it learns, resumes as if never stopped, and measures what it claims to."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from places import ROOT
from safetensors.torch import load_file

from flows.train_compact import NETWORKS as NAMES
from flows.train_compact import settings_of, train_compact
from tasks.archive.degradation import Degradation
from tasks.models.compact.table import build, load_compact
from tasks.training.data import FFHQ_POINTS, POINT_NAMES, Pair, draw_cast, ita, load_faces, restorer_pair, tone_pair
from tasks.training.faces import face_crop, nonface_crop
from tasks.training.loop import TrainSettings, evenly, take_over, train
from tasks.training.measure import ROWS, measure_landmarks, measure_picture
from tasks.training.networks import NETWORKS, quality_truth
from tasks.training.scenes import draw_frame, elsewhere, framed
from tasks.training.session import TrainingRefused, train_one
from tasks.training.strip import write_strip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve drawn faces in the layout of a portrait collection: aligned, whole, points."""
    root = tmp_path_factory.mktemp("portraits")
    (root / "aligned512").mkdir()
    (root / "whole").mkdir()
    rng = np.random.default_rng(0)
    points = FFHQ_POINTS * 0.5 + (40, -10)
    rows = [["id", "split", *[f"{name}_{axis}" for name in POINT_NAMES for axis in "xy"]]]
    for index in range(12):
        whole = drawn_face(rng, points)
        matrix, _ = cv2.estimateAffinePartial2D(points, FFHQ_POINTS, method=cv2.LMEDS)
        aligned = cv2.warpAffine(whole, matrix, (512, 512), borderMode=cv2.BORDER_REFLECT_101)
        cv2.imwrite(str(root / "whole" / f"f{index:02}.jpg"), whole)
        cv2.imwrite(str(root / "aligned512" / f"f{index:02}.jpg"), aligned)
        rows.append([f"f{index:02}", "train" if index < 8 else "val", *points.ravel().tolist()])
    with (root / "portraits.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root


def drawn_face(rng, points):
    picture = np.full((413, 338, 3), rng.integers(90, 200, 3), np.uint8)
    centre = points.mean(axis=0).astype(int).tolist()
    cv2.ellipse(picture, centre, (75, 95), 0, 0, 360, rng.integers(60, 220, 3).tolist(), -1)
    for x, y in points[:2].astype(int).tolist():
        cv2.circle(picture, (x, y), 9, (30, 30, 30), -1)
    cv2.line(picture, points[3].astype(int).tolist(), points[4].astype(int).tolist(), (40, 40, 160), 6)
    return picture


@pytest.fixture
def one_thread():
    """Several threads add gradients up in whatever order they come: equal to the bit only on one."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def settings(folder, out, **other):
    return TrainSettings(data=folder, out=out, **{"steps": 6, "batch": 2, "save_every": 2, "half": False} | other)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_takes_a_step_and_can_be_loaded(folder, tmp_path, name):
    result = train(name, settings(folder, tmp_path, steps=1))
    assert np.isfinite(result.loss)
    assert result.weights.name == f"{name}.safetensors"
    load_compact(result.weights)


def test_training_lowers_the_loss(folder, tmp_path, monkeypatch):
    losses, few = [], replace(NETWORKS["dehaze"], pool=8)
    monkeypatch.setitem(NETWORKS, "dehaze", few)
    train("dehaze", settings(folder, tmp_path, steps=40, batch=4), lambda step, steps, loss: losses.append(loss))
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10]), losses


@pytest.mark.usefixtures("one_thread")
def test_an_interrupted_training_ends_where_it_would_have(folder, tmp_path):
    whole = train("severe", settings(folder, tmp_path / "whole"))

    class Stop(Exception):
        pass

    def stop_at_five(step, steps, loss):
        if step == 5:
            raise Stop

    with pytest.raises(Stop):
        train("severe", settings(folder, tmp_path / "parts"), stop_at_five)
    seen = []
    parts = train("severe", settings(folder, tmp_path / "parts"), lambda step, steps, loss: seen.append(step))
    assert seen == [5, 6], "it went on from the checkpoint of step 4"
    assert parts.sha256 == whole.sha256


def test_a_killed_training_leaves_a_checkpoint_that_can_be_read(folder, tmp_path):
    code = (
        "import sys; from tasks.training.loop import *; "
        "train('landmarks', TrainSettings(data=sys.argv[1], out=sys.argv[2], steps=100000, batch=1, save_every=1))"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen([sys.executable, "-c", code, str(folder), str(tmp_path)], env=environment)
    checkpoint = tmp_path / "landmarks.ckpt"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.3)
    child.send_signal(signal.SIGKILL)
    assert child.wait(20) == -signal.SIGKILL
    assert torch.load(checkpoint, weights_only=True)["step"] >= 1


def test_a_checkpoint_of_other_settings_is_refused(folder, tmp_path):
    train("severe", settings(folder, tmp_path, steps=1))
    with pytest.raises(ValueError, match="other settings"):
        train("severe", settings(folder, tmp_path, steps=1, seed=4))


def test_a_network_takes_over_a_smaller_one_and_does_what_it_did():
    torch.manual_seed(0)
    smaller = build("severe", working=64, widths=[8, 8], blocks=[1, 1])
    torch.nn.init.normal_(smaller.leave.weight, std=0.1)
    larger = build("restorer", working=64, widths=[8, 8], blocks=[2, 2], fine=8)
    take_over(larger, smaller)
    picture = torch.nn.functional.interpolate(torch.rand(1, 3, 16, 16), (128, 128), mode="bilinear").clamp(0, 1)
    with torch.inference_mode():
        changed = (larger(picture) - smaller(picture)).abs().mean() / (smaller(picture) - picture).abs().mean()
    assert changed < 0.2, "the same but for where the correction is enlarged"
    with pytest.raises(ValueError, match="no place for"):
        take_over(smaller, larger)


def test_a_training_that_gets_no_better_stops_early(folder, tmp_path):
    plain = folder / "aligned512"
    spoilt = train("skin_tone", settings(plain, tmp_path, steps=40, save_every=1, patience=2, learning_rate=0.1))
    assert spoilt.steps < 40
    learning = train("skin_tone", settings(plain, tmp_path / "other", steps=4, save_every=2, patience=50))
    assert learning.steps == 4
    again = train("skin_tone", settings(plain, tmp_path, steps=40, save_every=1, patience=2, learning_rate=0.1))
    assert (again.steps, again.sha256) == (spoilt.steps, spoilt.sha256), "what has stopped early is finished"


def test_patience_remembers_what_was_judged_before_a_stop_and_ships_the_best(folder, tmp_path, monkeypatch):
    losses = iter([3.0, 1.0, 2.0, 2.0, 2.0, 2.0])
    monkeypatch.setattr("tasks.training.loop._Run._loss_on_held_out", lambda run: next(losses))
    told = {"save_every": 1, "patience": 2}
    plain = folder / "aligned512"
    best = train("skin_tone", settings(plain, tmp_path / "best", steps=2, **told))
    assert best.steps == 2
    losses = iter([3.0, 1.0, 2.0, 2.0, 2.0, 2.0])
    train("skin_tone", settings(plain, tmp_path, steps=3, **told))
    resumed = train("skin_tone", settings(plain, tmp_path, steps=40, **told))
    assert resumed.steps == 4, "two looks after the best, one of them before the stop"
    kept = torch.load(tmp_path / "skin_tone.ckpt", weights_only=True)
    assert kept["judged"] == [3.0, 1.0, 2.0, 2.0]
    shipped = load_file(resumed.weights)
    assert all(torch.allclose(shipped[key], kept["best"][key].half()) for key in shipped)
    assert any(not torch.equal(kept["best"][key], kept["average"][key]) for key in kept["best"])


def test_examples_of_a_pool_are_drawn_once_and_are_the_same_again(folder, tmp_path, monkeypatch):
    drawn = []
    quality = NETWORKS["quality"]
    counted = replace(quality, pool=5, draw=lambda face, seed: drawn.append(seed) or quality.draw(face, seed))
    monkeypatch.setitem(NETWORKS, "quality", counted)
    first = train("quality", settings(folder, tmp_path / "one", steps=8, batch=4))
    assert len(drawn) == len(set(drawn)) <= 5
    again = train("quality", settings(folder, tmp_path / "two", steps=8, batch=4))
    assert first.loss == pytest.approx(again.loss, rel=1e-3)


def test_the_flow_trains_measures_and_lists_the_networks(folder, tmp_path, prefect_server):
    few = {"all": {"steps": 1, "batch": 2}, "skin_tone": {"steps": 2}}
    (row,) = train_compact(data=str(folder), out=str(tmp_path), names=("skin_tone",), settings=few)
    assert {*NAMES} == {*NETWORKS, "niqe"}
    assert (row["name"], row["steps"]) == ("skin_tone", 2)
    assert "gain" in row["colour_cast"]
    load_compact(Path(row["weights"]))
    with pytest.raises(TrainingRefused, match="no network is called 'skin'"):
        train_compact(data=str(folder), out=str(tmp_path), names=("skin",))


def test_what_a_training_lacks_is_said_before_it_begins(folder, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    for picture in sorted((folder / "aligned512").iterdir())[:9]:
        (few / picture.with_suffix(".JPG").name).write_bytes(picture.read_bytes())
    began = []
    for data, asked, words in (
        (few, {"steps": 1}, "no val pictures"),
        (folder, {"steps": 1, "device": "cuda:9"}, "no CUDA device"),
        (folder, {"stepps": 1}, "stepps"),
    ):
        with pytest.raises(TrainingRefused, match=words):
            train_one("skin_tone", [data], tmp_path / "out", asked, lambda *told: began.append(told))
    assert not began
    (few / "portraits.csv").write_text("name,split\na,train\n")
    with pytest.raises(TrainingRefused, match="no column id"):
        train_one("skin_tone", [few], tmp_path / "out", {"steps": 1})


def test_what_is_said_of_all_networks_gives_way_to_what_is_said_of_one():
    said = {"all": {"steps": 1, "seed": 2}, "severe": {"steps": 3}}
    assert settings_of("severe", said) == {"steps": 3, "seed": 2}
    assert settings_of("dehaze", said) == {"steps": 1, "seed": 2}
    assert settings_of("niqe", said) == {}


def test_an_unknown_network_is_refused(folder, tmp_path):
    with pytest.raises(KeyError, match="landmarks"):
        train("landmark", settings(folder, tmp_path))


def test_a_folder_without_faces_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="aligned 512"):
        load_faces(tmp_path, "train")


def test_splits_do_not_share_a_face_and_plain_folders_work(folder):
    train_names, val_names = ({face.name for face in load_faces(folder, split)} for split in ("train", "val"))
    assert len(train_names) == 8
    assert len(val_names) == 4
    assert not train_names & val_names
    fit, choose = ({face.name for face in load_faces(folder / "aligned512", split)} for split in ("fit", "choose"))
    assert (len(fit), len(choose)) == (10, 1)
    assert not fit & choose
    plain = load_faces(folder / "aligned512", "train")
    assert len(plain) == 11
    assert plain[0].points is None


def test_the_mirrored_border_is_masked(folder):
    (face, *_) = load_faces(folder, "train")
    assert face.valid[300, 256] == 1
    assert 0.9 < face.valid.mean() < 1
    assert not face.valid[0].any(), "the crop leaves these pictures at the top"


def test_pairs_are_seeded(folder):
    (face, *_) = load_faces(folder, "train")
    first, again, other = (restorer_pair(face, seed, 256) for seed in (3, 3, 4))
    assert first.given.tobytes() == again.given.tobytes()
    assert first.given.shape == first.truth.shape
    assert first.given.tobytes() != other.given.tobytes()


def test_tone_pairs_differ_in_tone_alone_and_have_the_same_frame(folder):
    (face, *_) = load_faces(folder, "train")
    inside, colour = draw_frame(128, np.random.default_rng(1))
    assert 0 < inside.mean() < 1
    assert framed(np.full((128, 128, 3), 0.7, np.float32), inside, colour)[inside == 0].tolist()[0] == pytest.approx(
        colour
    )
    pairs = [tone_pair(face, seed, lambda rng: Degradation()) for seed in range(12)]
    assert all(np.array_equal(pair.given, pair.truth) for pair in pairs)
    assert len({float(pair.valid.mean()) for pair in pairs}) > 6
    again = tone_pair(face, 3, draw_cast)
    assert again.given.tobytes() == tone_pair(face, 3, draw_cast).given.tobytes()


def test_elsewhere_the_surroundings_change_and_the_face_is_only_lit_otherwise():
    rng, face = np.random.default_rng(0), np.full((128, 128, 3), 0.5, np.float32)
    y, x = np.mgrid[0:128, 0:128] / 128
    face[np.hypot((x - 0.5) / 0.3, (y - 0.52) / 0.42) < 1] = (0.7, 0.5, 0.4)
    for _ in range(8):
        made = elsewhere(face, rng)
        gains = made[40:90, 50:78] / face[40:90, 50:78]
        assert np.ptp(gains, axis=(0, 1)).max() < 1e-3
        assert gains.max() == pytest.approx(1), "light is taken away, so that nothing is burnt out"
        assert made[:12].std() > 0.01, "scenery in place of the plain backdrop"


def test_lighter_skin_has_a_larger_angle_and_rare_tones_are_shown_more_often(folder):
    levels = np.array([(70, 45, 35), (190, 145, 120), (230, 200, 180)], np.float32) / 255
    angles = [ita(np.broadcast_to(colour, (512, 512, 3)).copy()) for colour in levels]
    assert angles[0] < 0 < angles[1] < angles[2]
    (face, *_) = load_faces(folder, "train")
    dark, light = (replace(face, aligned=np.full((512, 512, 3), c * 255, np.uint8)) for c in levels[[0, 2]])
    shares = evenly([light] * 9 + [dark])
    assert shares.sum() == pytest.approx(1)
    assert 2 < shares[-1] / shares[0] <= 9


def test_a_strip_shows_given_made_and_truth(folder, tmp_path):
    faces = load_faces(folder, "val")
    path = write_strip("dehaze", build("dehaze").eval(), faces, tmp_path / "strip.png")
    assert cv2.imread(str(path)).shape == (4 * 3 * 160, len(faces) * 160, 3)
    assert write_strip("quality", build("quality"), faces, tmp_path / "none.png") is None


def test_a_crop_carries_its_points_along(folder):
    (face, *_) = load_faces(folder, "train")
    for seed in range(12):
        crop = face_crop(face, seed)
        left, right, nose, mouth_left, mouth_right = crop.points
        assert crop.points.min() > -0.1
        assert crop.points.max() < 1.1
        across, down = right - left, (mouth_left + mouth_right - left - right) / 2
        assert across[0] > 0, "image-left stays image-left, mirrored or not"
        assert across[0] * down[1] - across[1] * down[0] > 0
        assert np.hypot(*(nose - crop.points.mean(axis=0))) < np.hypot(*across)
    assert not nonface_crop(face, 1).face


def test_quality_truth_falls_with_the_error():
    truth = np.full((8, 8, 3), 0.5, np.float32)
    valid = np.ones((8, 8), np.float32)
    scores = [quality_truth(Pair(truth + error, truth, valid)) for error in np.float32([0, 0.01, 0.05, 0.5])]
    assert scores[0] == 1
    assert all(better > worse for better, worse in pairwise(scores))
    assert scores[-1] == 0


def test_a_network_that_does_nothing_gains_nothing(folder):
    faces = load_faces(folder, "val")[:2]
    figures = measure_picture(build("restorer").eval(), faces, ROWS["restorer"]["medium"])
    assert figures["gain"] == pytest.approx(0, abs=1e-3)
    assert 5 < figures["input"] < 50
    assert measure_picture(build("restorer").eval(), faces, lambda seed: Degradation())["input"] == 99


def test_an_untrained_landmark_network_is_no_better_than_the_constant_guess(folder):
    figures = measure_landmarks(build("landmarks").eval(), load_faces(folder, "val"), views=2)
    assert figures["points"]["error_percent"] > 0.8 * figures["points"]["constant_percent"]
