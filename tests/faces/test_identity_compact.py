"""The small judge: planted features never get through, honest restorations do, and it says what it cannot tell."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from places import WEIGHTS, aligned_astronaut
from test_identity import judge

from tasks.archive.degradation import MEDIUM, MILD, SEVERE, degrade
from tasks.faces.judges import ADAFACE, ONNX
from tasks.faces.small_judge import COMPACT, THRESHOLDS, TRUSTED, CompactJudge, threshold_at
from tasks.measuring.metrics import METRICS, identities
from tasks.stage import Batch, Face
from tasks.stages.identity import Identity, IdentitySettings
from tasks.training.data import FFHQ_POINTS, load_faces, to_float
from tasks.training.data import Face as Portrait
from tasks.training.identity import identity_loss, identity_views, restored
from tasks.training.identity_measure import area, planted, small_grey, trials

ASTRONAUT = aligned_astronaut()
FILE = WEIGHTS / "identity.safetensors"


@pytest.fixture(scope="module")
def stage():
    made = Identity(IdentitySettings(blends=(), earlier=None), {COMPACT: FILE})
    made.load("cpu", "float32")
    return made


@pytest.fixture(scope="module")
def people(shared):
    """Six of the people that nothing was trained on."""
    return load_faces(shared / "data" / "portraits", "val")[::8]


def verdict(stage, aligned, result):
    images = {"aligned": aligned[None], "restored": result[None]}
    return stage.run(Batch([Face("a", 0)], images))[0]


def moved(picture, points, by):
    """The face with what lies around a point fetched from somewhere else."""
    y, x = np.mgrid[0:512, 0:512].astype(np.float32)
    share = np.exp(-((x - points[0]) ** 2 + (y - points[1]) ** 2) / (2 * 27**2)).astype(np.float32)
    return cv2.remap(picture, x + by[0] * share, y + by[1] * share, cv2.INTER_LINEAR)


@pytest.mark.parametrize("damage", [MILD, MEDIUM, SEVERE])
def test_an_honest_restoration_passes(stage, damage):
    given = degrade(ASTRONAUT, damage, 1)
    for result in (restored(given), ASTRONAUT, given * np.float32(0.8)):
        told = verdict(stage, given, result).outcome
        assert (told.state, told.detail["judge"]) == ("done", COMPACT)
        assert told.metrics["identity_compact.restored"] >= told.detail["threshold"] >= THRESHOLDS[0]


@pytest.mark.parametrize("part", ["eye", "mouth"])
def test_a_feature_that_was_moved_is_another_persons(stage, part):
    where = FFHQ_POINTS[0] if part == "eye" else FFHQ_POINTS[3:].mean(axis=0)
    given = degrade(ASTRONAUT, MEDIUM, 1)
    told = verdict(stage, given, moved(restored(given), where, (22, 16)))
    assert told.outcome.reason_code == "identity_lost"
    assert f"the {part}" in told.outcome.reason
    assert ADAFACE in told.outcome.reason, "says how to get a better judge"
    np.testing.assert_array_equal(told.images["restored"], given)


@pytest.mark.parametrize(("region", "least"), [("eyes", 5), ("nose", 3), ("mouth", 4), ("inner", 6), ("all", 6)])
def test_what_is_somebody_elses_falls_below_the_threshold(stage, people, region, least):
    truths, caught = [to_float(face.aligned) for face in people], 0
    for one, other in zip(truths, truths[1:] + truths[:1], strict=True):
        given = degrade(one, MEDIUM, 3)
        made = other if region == "all" else planted(one, other, region)
        caught += verdict(stage, given, made).outcome.reason_code == "identity_lost"
        assert verdict(stage, given, one).outcome.reason_code == "ok"
    assert caught >= least, "of six; a nose is the hardest to tell"


@pytest.mark.parametrize("setting", ["pass", "reject"])
def test_where_the_input_shows_too_little_it_says_so(setting):
    cautious = Identity(IdentitySettings(undecidable=setting), {COMPACT: FILE})
    cautious.load("cpu", "float32")
    ruined = cv2.GaussianBlur(ASTRONAUT, (0, 0), 25)
    told = verdict(cautious, ruined, ASTRONAUT).outcome
    assert told.detail["verdict" if setting == "pass" else "judge"] == ("undecidable" if setting == "pass" else COMPACT)
    assert told.reason_code == ("ok" if setting == "pass" else "undecidable")
    assert "too little" in told.detail["why"]
    assert not told.metrics


def test_recognition_networks_come_first_and_keep_their_metric(monkeypatch):
    monkeypatch.setattr("tasks.stages.identity.adaface_judge", lambda path, device: judge)
    monkeypatch.setattr("tasks.stages.identity.onnx_judge", lambda path: judge)
    for present in ([ADAFACE, ONNX, COMPACT], [ONNX, COMPACT], [COMPACT]):
        made = Identity(IdentitySettings(earlier=None), dict.fromkeys(present, FILE))
        made.load("cpu", "float32")
        told = verdict(made, ASTRONAUT, ASTRONAUT).outcome
        assert told.detail["judge"] == present[0]
        assert set(told.metrics) == {"identity_compact.restored" if present == [COMPACT] else "identity.restored"}


def test_the_small_judge_is_no_measure_of_gate_or_challenge():
    assert not any(COMPACT in metric.weights for metric in METRICS.values())
    assert "identity_compact" not in (*METRICS, *identities())


def test_the_better_the_input_is_seen_the_more_alike_a_part_must_be():
    assert [threshold_at(trust) for trust in (*TRUSTED, 1.0)] == [*THRESHOLDS, THRESHOLDS[1]]
    assert THRESHOLDS[0] < threshold_at(sum(TRUSTED) / 2) < THRESHOLDS[1]


def test_one_part_that_differs_decides():
    small = CompactJudge.__new__(CompactJudge)
    small.parts = ("nose", "mouth")
    one, other = (SimpleNamespace(vectors=np.array([v]) / np.sqrt(2)) for v in ([1.0, 0, 1, 0], [1.0, 0, 0.6, 0.8]))
    part, value = small.least_alike(one, other)
    assert part == "mouth"
    assert value == pytest.approx(0.6)


def test_planting_changes_the_region_alone():
    other = np.ascontiguousarray(ASTRONAUT[:, ::-1]) * np.float32(0.5)
    made = planted(ASTRONAUT, other, "mouth")
    np.testing.assert_array_equal(made[:300], ASTRONAUT[:300])
    inside = (slice(365, 385), slice(240, 272))
    assert np.abs(made[inside] - ASTRONAUT[inside]).max() > 0.05
    assert abs(made[inside].mean() - other[inside].mean()) > 0.05, "it has the colour of the face that it is put into"


def test_trials_name_what_is_honest():
    portraits = [portrait(ASTRONAUT), portrait(ASTRONAUT[:, ::-1])]
    one, _ = trials(portraits, lambda seed: MILD, lambda image: image)
    assert [n for n, honest in zip(one.names, one.honest, strict=True) if honest] == ["restored", "truth"]
    alike = dict(zip(one.names, small_grey(one.given, one.candidates), strict=True))
    assert alike["truth"] > alike["truth.inner"] > alike["truth.other"]
    assert area(np.array([2.0, 3.0]), np.array([1.0, 2.5])) == 0.75


def portrait(image):
    levels = np.ascontiguousarray(image * 255).astype(np.uint8)
    return Portrait("x" + str(levels[0, 0]), levels, np.ones((512, 512), np.uint8), None, None)


def test_views_are_what_the_loss_blames_the_network_for():
    views = [identity_views(portrait(image), 5) for image in (ASTRONAUT, ASTRONAUT[:, ::-1])]
    again = identity_views(portrait(ASTRONAUT), 5)
    assert all(torch.equal(views[0][key], again[key]) for key in again), "drawn by the seed alone"
    batch = {key: torch.stack([example[key] for example in views]) for key in views[0]}
    assert batch["views"].shape == (2, 5, 112, 112)
    told_apart, mixed_up = (identity_loss(Known(order), batch) for order in ((0, 0, 0, 0, 2), (0, 1, 0, 1, 0)))
    assert told_apart < mixed_up / 4


def test_a_moved_feature_is_marked_where_it_is_seen():
    seeds = [(seed, identity_views(portrait(ASTRONAUT), seed)) for seed in range(12)]
    single = [views for _, views in seeds if views["moved"][:2].sum() == 1]
    assert single, "some draws move one eye alone"
    for views in single:
        clean, other = (views["views"][n].float() for n in (2, 4))
        apart = [1 - correlation(clean[y0:y1, x0:x1], other[y0:y1, x0:x1]) for y0, y1, x0, x1 in EYES]
        assert int(np.argmax(apart)) == int(views["moved"][:2].float().argmax())


EYES = ((36, 66, 22, 54), (36, 66, 58, 90))


def correlation(one, other):
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


class Known:
    """In the network's place: view n of face k gets direction order[n], or that of the face's own."""

    def __init__(self, order):
        self.order = order

    def describe(self, luma):
        directions = torch.eye(8)[[4 * face + way for way in self.order for face in (0, 1)]]
        return directions[:, None].expand(-1, 5, -1)

    def shown(self, luma, clean):
        return torch.ones(len(luma))

    def trust(self, luma):
        return torch.ones(len(luma))
