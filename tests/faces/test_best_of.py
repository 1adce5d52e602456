"""The best of several results: by its score, among those that are still the same person."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.recipes.condition import RecipeError
from tasks.recipes.recipe import Recipe
from tasks.stage import Batch, Face
from tasks.stages.best_of import BestOf, BestOfSettings

rng = np.random.default_rng(0)
ALIGNED = np.full((512, 512, 3), 0.5, np.float32)
MILD = (ALIGNED + rng.normal(0, 0.02, ALIGNED.shape)).astype(np.float32)
STRONG = (ALIGNED + rng.normal(0, 0.2, ALIGNED.shape)).astype(np.float32)
NAMES = ("aligned", "mild.restored", "strong.restored")


def same_below(noise):
    """A judge to whom a picture is another person once it deviates by more than this."""
    return lambda crops: np.stack([[1.0, 0.0] if crop.std() < noise else [0.0, 1.0] for crop in crops])


def chosen(judge, images=NAMES, metric="sharpness"):
    stage = BestOf(BestOfSettings(images=images, metric=metric))
    stage.load("cpu", "float32")
    stage.judge = judge
    given = dict(zip(NAMES, (ALIGNED, MILD, STRONG), strict=True))
    (result,) = stage.run(Batch([Face("a", 0)], {name: image[None] for name, image in given.items()}))
    return result


@pytest.mark.parametrize(("noise", "kept", "image"), [(9, NAMES[2], STRONG), (0.02, NAMES[1], MILD)])
def test_the_best_score_wins_among_those_that_are_the_same_person(noise, kept, image):
    result = chosen(same_below(noise))
    assert result.outcome.detail["kept"] == kept
    assert np.array_equal(result.images["restored"], image)


def test_where_none_is_the_safest_is_kept():
    another = iter(range(9))
    result = chosen(lambda crops: np.eye(9)[[next(another)]], images=NAMES[1:])
    assert result.outcome.detail["kept"] == NAMES[1]


def test_every_candidates_score_and_likeness_is_recorded():
    outcome = chosen(same_below(0.02)).outcome
    assert set(outcome.metrics) == {f"sharpness.{name}" for name in NAMES}
    assert outcome.metrics["sharpness.strong.restored"] > outcome.metrics["sharpness.mild.restored"]
    assert outcome.detail["similarity"] == {NAMES[0]: 1.0, NAMES[1]: 1.0, NAMES[2]: 0.0}


def test_a_lower_score_wins_where_lower_is_better(monkeypatch):
    monkeypatch.setattr(BestOf, "_score", lambda self, image: float(image.std()))
    monkeypatch.setattr(BestOf, "load", lambda self, device, dtype: setattr(self, "present", ""))
    assert chosen(same_below(9), metric="niqe").outcome.detail["kept"] == NAMES[0]


def test_where_nothing_can_judge_the_score_alone_decides_and_that_is_said():
    outcome = chosen(None).outcome
    assert outcome.detail["kept"] == NAMES[2]
    assert "no judge" in outcome.detail["undecidable"]


def test_a_metric_that_ranks_nothing_is_refused():
    stages = [{"id": "detect_align"}, {"id": "best_of", "settings": {"metric": "psnr"}}, {"id": "paste_back"}]
    with pytest.raises(RecipeError, match=r"unknown metric 'psnr'; known are niqe"):
        Recipe.parse({"name": "x", "stage": stages})


def test_a_gate_may_ask_for_a_candidates_score():
    best = {"id": "best_of", "settings": {"images": ["aligned", "compact_restorer.restored"]}}
    gated = {"id": "gfpgan", "when": "quality.compact_restorer.restored < 0.5"}
    stages = [{"id": "detect_align"}, {"id": "compact_restorer"}, best, gated, {"id": "paste_back"}]
    recipe = Recipe.parse({"name": "x", "stage": stages})
    assert {s.id for s in recipe.dependencies(recipe.stage("gfpgan"))} == {"best_of"}
    assert {s.id for s in recipe.dependencies(recipe.stage("best_of"))} == {"detect_align", "compact_restorer"}
