"""Recipes: validated whole, and exact about what a change makes stale."""

from __future__ import annotations

import pytest

from tasks.recipes.condition import Condition, RecipeError
from tasks.recipes.recipe import COMMIT, Recipe, load_recipe, recipe_names, seed_of, stage_key

WEIGHTS = {"compact_skin_tone": "aa", "compact_restorer": "bb", "compact_quality": "cc"}


def digests(recipe, weights=WEIGHTS, numerics="cpu-float32"):
    return recipe.digests(weights, numerics)


def changed(a, b):
    return {name for name in a if a[name] != b[name]}


def test_every_recipe_that_ships_is_valid():
    for name in recipe_names():
        assert load_recipe(name).name == name


def test_changed_skin_tone_weights_rerun_that_stage_and_what_follows_and_nothing_else():
    recipe = load_recipe("compact")
    after = digests(recipe, {**WEIGHTS, "compact_skin_tone": "other"})
    assert changed(digests(recipe), after) == {"skin_tone", "identity", "paste_back", "evaluate", COMMIT}


def test_whoever_may_have_written_an_image_makes_its_readers_stale():
    """A face whose gate was shut carries the restorer's image past the gate: dehazing depends on both."""
    recipe = load_recipe("compact")
    after = digests(recipe, {**WEIGHTS, "compact_restorer": "other"})
    moved = changed(digests(recipe), after)
    assert {"pisa_sr", "score", "dehaze", "skin_tone", "identity", "paste_back", "evaluate", COMMIT} <= moved
    assert not {"detect_align", "score_input", "gfpgan"} & moved


def test_a_changed_setting_of_a_scorer_reaches_only_what_its_gate_drives():
    recipe = load_recipe("compact")
    other = load_recipe("compact", {"identity": {"threshold": 0.6}})
    assert changed(digests(recipe), digests(other)) == {"identity", "paste_back", "evaluate", COMMIT}


def test_a_moved_leave_alone_gate_makes_all_that_follows_it_stale():
    data = load_recipe("compact").to_dict()
    for stage in data["stage"]:
        if stage["stop_when"]:
            stage["stop_when"] = "quality.aligned >= 0.5"
    moved = changed(digests(load_recipe("compact")), digests(Recipe.parse(data)))
    assert "detect_align" not in moved
    assert "score_input" not in moved
    assert {"pisa_sr", "dehaze", "paste_back", COMMIT} <= moved


def test_numerics_reach_the_networks_only():
    recipe = load_recipe("compact")
    moved = changed(digests(recipe), digests(recipe, numerics="cuda-bfloat16"))
    assert "detect_align" not in moved
    assert "pisa_sr" in moved


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"nmae": "x"}, ["unknown key 'nmae'", "'name'"]),
        ({"stage": [{"id": "detect_align", "use": "detect_allign"}]}, ["detect_allign", "did you mean 'detect_align'"]),
        ({"stage": [{"id": "paste_back"}]}, ["expected detect_align first"]),
    ],
)
def test_what_is_wrong_is_said_with_the_nearest_match(change, words):
    with pytest.raises(RecipeError) as error:
        Recipe.parse({"name": "x", "stage": [{"id": "detect_align"}, {"id": "paste_back"}], **change})
    assert all(word in str(error.value) for word in words), error.value


def test_an_unknown_setting_of_a_stage_names_the_stage_and_the_nearest_setting():
    with pytest.raises(RecipeError, match=r"stage 'identity'.*'treshold'.*did you mean 'threshold'"):
        load_recipe("compact", {"identity": {"treshold": 0.5}})


def test_what_the_first_restorer_finds_as_restored_is_the_aligned_input():
    stages = [{"id": "detect_align"}, {"id": "gfpgan"}, {"id": "paste_back"}]
    recipe = Recipe.parse({"name": "x", "stage": stages})
    assert [stage.id for stage in recipe.dependencies(recipe.stage("gfpgan"))] == ["detect_align"]


def test_an_image_that_nobody_wrote_is_refused():
    stages = [{"id": "detect_align"}, {"id": "identity"}, {"id": "paste_back"}]
    with pytest.raises(RecipeError, match=r"'identity' needs 'pisa_sr\.restored'"):
        Recipe.parse({"name": "x", "stage": stages})


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(RecipeError, match="did you mean 'compact'"):
        load_recipe("compcat")


def test_a_gate_on_a_metric_that_nobody_measures_is_refused():
    data = load_recipe("compact").to_dict()
    data["stage"][-1]["when"] = "musiq.aligned < 17"
    with pytest.raises(RecipeError, match=r"needs 'musiq\.aligned'"):
        Recipe.parse(data)


def test_the_released_gate_needs_both_scores_below():
    gate = Condition("clipiqa.aligned < 0.3 and musiq.aligned < 17")
    assert gate.holds({"clipiqa.aligned": 0.29, "musiq.aligned": 16.9})
    assert not gate.holds({"clipiqa.aligned": 0.3, "musiq.aligned": 16.9})
    assert not gate.holds({"clipiqa.aligned": 0.29, "musiq.aligned": 17.0})
    assert not gate.holds({"clipiqa.aligned": 0.1})


def test_a_condition_that_is_none_is_refused_with_an_example():
    with pytest.raises(RecipeError, match=r"quality\.aligned < 0\.3"):
        _ = Condition("quality is poor").comparisons


def test_seeds_follow_from_image_face_and_stage():
    assert seed_of("f00", 3, "diffbir") == seed_of("f00", 3, "diffbir")
    others = {seed_of("f00", 4, "diffbir"), seed_of("f01", 3, "diffbir"), seed_of("f00", 3, "pisa_sr")}
    assert seed_of("f00", 3, "diffbir") not in others
    assert 0 <= max(others) < 2**63
    assert stage_key("f00", 3, "a") != stage_key("f00", 3, "b")
