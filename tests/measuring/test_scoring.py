"""Scoring stages, and that a metric is one line of the table: no other place has to know of it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from places import WEIGHTS
from pydantic import ValidationError

from infra.weights.store import open_store
from tasks.measuring import metrics
from tasks.measuring.challenge import Scored, summarise
from tasks.measuring.instruments import FacePair, Instrument
from tasks.measuring.meter import Meter, resolve
from tasks.measuring.metrics import METRICS, Metric
from tasks.models.compact.table import load_compact
from tasks.pages.shared.distributions import distribution, histogram
from tasks.pages.shared.measures import Measure, title
from tasks.stage import Batch, Face
from tasks.stages.score import Evaluate, EvaluateSettings, Score, ScoreSettings

QUALITY = {"compact_quality": WEIGHTS / "quality.safetensors"}


@pytest.fixture(scope="module")
def faces():
    """Two faces: what they were, smooth, and what became of them, with grain that overshoots."""
    rng = np.random.default_rng(0)
    smooth = cv2.resize(rng.random((2, 6, 6), np.float32).transpose(1, 2, 0), (512, 512)).transpose(2, 0, 1)
    aligned = np.repeat(smooth[..., None], 3, axis=3)
    restored = aligned + rng.normal(0, 0.1, aligned.shape).astype(np.float32)
    images = {"aligned": aligned, "restored": restored, "delivered": restored}
    return Batch([Face("a", 0), Face("a", 1)], images)


def run(stage, batch):
    stage.load("cpu", "float32")
    return [result.outcome for result in stage.run(batch)]


def quality_of(image):
    tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]
    with torch.inference_mode():
        return float(load_compact(QUALITY["compact_quality"])(tensor).reshape(-1)[0])


def sharpness_of(image):
    luma = image @ np.array([0.299, 0.587, 0.114], np.float32)
    return float(cv2.Laplacian(luma, cv2.CV_32F).std() * 255)


def test_evaluate_measures_a_face_as_it_was_and_as_it_is(faces):
    found = run(Evaluate(EvaluateSettings(), QUALITY), faces)
    for outcome, aligned, restored in zip(found, faces.images["aligned"], faces.images["restored"], strict=True):
        final = restored.clip(0, 1)
        assert outcome.metrics == {
            "sharpness.aligned": sharpness_of(aligned),
            "sharpness.restored": sharpness_of(final),
            "quality.aligned": quality_of(aligned),
            "quality.restored": quality_of(final),
            "change.restored": float(np.abs(final - aligned).mean()),
        }


def test_evaluate_is_silent_on_what_it_cannot_measure(faces):
    (first, _) = run(Evaluate(EvaluateSettings()), faces)
    assert set(first.metrics) == {"sharpness.aligned", "sharpness.restored", "change.restored"}


def test_score_takes_the_metrics_and_images_of_its_settings(faces):
    settings = ScoreSettings(images=("restored",), metrics=("quality", "sharpness"))
    (first, _) = run(Score(settings, QUALITY), faces)
    final = faces.images["restored"][0].clip(0, 1)
    assert first.metrics == {"quality.restored": quality_of(final), "sharpness.restored": sharpness_of(final)}
    assert set(first.metrics) == set(Score.provides(settings))


def test_a_metric_that_a_face_does_not_allow_is_absent_and_the_reason_is_said(tmp_path):
    np.savez(tmp_path / "niqe.npz", mu_pris_param=np.full((1, 36), 0.5), cov_pris_param=np.eye(36))
    settings = ScoreSettings(images=("aligned",), metrics=("niqe", "sharpness"))
    small = Batch([Face("a", 0)], {"aligned": np.zeros((1, 64, 64, 3), np.float32)})
    (outcome,) = run(Score(settings, {"niqe_pristine": tmp_path / "niqe.npz"}), small)
    assert set(outcome.metrics) == {"sharpness.aligned"}
    assert "aligned: niqe: NIQE needs both sides" in outcome.reason


@pytest.mark.parametrize("name", ["beauty", "psnr", "identity", "fid"])
def test_only_metrics_without_a_reference_can_be_scored(name):
    with pytest.raises(ValidationError, match=f"unknown metric '{name}'; known are niqe, clipiqa"):
        ScoreSettings(metrics=(name,))


def test_what_networks_take_of_memory_is_added_up_or_not_known():
    assert Score.parameters(ScoreSettings(metrics=("clipiqa", "musiq"))) == pytest.approx(129.1)
    assert Score.parameters(ScoreSettings(metrics=("sharpness", "maniqa"))) is None


class TestOneLine:
    """A toy metric: one instrument and one line of the table."""

    @pytest.fixture(autouse=True)
    def _redness(self, monkeypatch):
        redness = Instrument(lambda face, _: float(face.restored[..., 0].mean()))
        line = Metric(
            *("redness", "Redness", "no_reference", "lower", redness), usual=True, gate=True, worth=lambda v: 1 - v
        )
        monkeypatch.setitem(METRICS, "redness", line)

    def test_it_is_planned_and_measured(self, tmp_path):
        assert "redness" in metrics.default_metrics(truth=False)
        assert "redness" in metrics.gate_metrics()
        found = resolve(("redness",), open_store(tmp_path), truth=False)
        assert (set(found.present), found.missing) == ({"redness"}, {})
        face = FacePair(np.full((8, 8, 3), 0.25, np.float32))
        assert Meter(tuple(found.present), {}).measure(face) == {"redness": 0.25}

    def test_recipes_score_by_it(self, faces):
        settings = ScoreSettings(metrics=("redness",))
        assert Score.provides(settings) == ("redness.restored",)
        (first, _) = run(Score(settings), faces)
        assert 0 < first.metrics["redness.restored"] < 1

    def test_it_is_added_up_and_judged(self):
        rows = [Scored("a.png", "", {"redness": 0.2}), Scored("b.png", "", {"redness": 0.4})]
        assert summarise(rows).means["redness"] == pytest.approx(0.3)
        assert metrics.worths()["redness"](np.array([0.2, 0.4])).tolist() == [0.8, 0.6]

    def test_pages_know_its_name_and_direction(self):
        assert title("redness") == "Redness"
        values = np.array([0.2, 0.4])
        drawn = histogram(
            distribution(Measure("redness", "redness.aligned", "redness.restored", False), values, values)
        )
        assert (drawn.title, drawn.better) == ("Redness", "lower is better")


def test_what_stages_record_beside_has_names_too():
    assert title("identity") == "Similarity to the input"
    assert title("identity_compact") == "Similarity to the input (small judge)"
    assert metrics.recorded("change").better == ""
    assert title("a_stage_of_ones_own") == "a stage of ones own"


def test_ledgers_of_earlier_versions_are_read_by_todays_names():
    old = {"quality.input": 0.1, "quality.final": 0.2, "clipiqa.aligned": 0.3, "pisa_sr.identity.restored": 0.4}
    assert metrics.of_today(old) == {
        "quality.aligned": 0.1,
        "quality.restored": 0.2,
        "clipiqa.aligned": 0.3,
        "pisa_sr.identity.restored": 0.4,
    }
