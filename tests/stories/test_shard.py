"""Shards: who goes through which stage, what is taken over from earlier runs, and what the verdicts are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flows.restoration.shard import Planned, Shard
from infra.ledger.rows import Event
from tasks.recipes.recipe import load_recipe

RECIPE = load_recipe("compact")
DIGESTS = RECIPE.digests({"compact_quality": "q", "compact_restorer": "r"}, "cpu-float32")
A, B = "a" * 64, "b" * 64


def shard(*image_ids):
    return Shard("s", 0, {image_id: Planned((f"{image_id[0]}.jpg",)) for image_id in image_ids}, RECIPE, DIGESTS)


def told(image_id, state, reason_code, reason="", **more):
    """An event as a worker or the ledger would give it."""
    return Event(image_id=image_id, state=state, reason_code=reason_code, reason=reason, **more)


def detected(image_id, faces):
    rows = [told(image_id, "done", "ok" if faces else "no_face", metrics={"faces": float(faces)})]
    return rows + [
        told(image_id, "done", "ok", face=n, output_uri=f"intermediates/d-{image_id[0]}") for n in range(faces)
    ]


def through(s, until=None, quality=0.5, identity="done"):
    """Takes a shard through the recipe as workers would, with the given score and identity verdict."""
    for stage in RECIPE.stages[1:]:
        if stage.id == until:
            return s
        items, shut = s.items(stage)
        s.apply(stage, shut)
        s.apply(stage, [answer(stage, item, quality, identity) for item in items])
    return s


def answer(stage, item, quality, identity):
    event = told(item.image_id, "done", "ok", face=getattr(item, "face", -1), output_uri=f"intermediates/{stage.id}")
    if stage.id.startswith("score"):
        return replace(event, metrics=dict.fromkeys(stage.provides, quality), output_uri=None)
    if stage.id == "identity":
        reason_code = "identity_lost" if identity == "rejected_identity" else "ok"
        return replace(event, state=identity, reason_code=reason_code)
    return event


def outcomes(s):
    return {verdict.image_id: verdict.outcome for verdict in s.verdicts()}


def test_one_verdict_per_image_and_faces_decide_it():
    s = shard(A, B)
    s.apply(RECIPE.stages[0], detected(A, 2) + detected(B, 0))
    through(s)
    assert outcomes(s) == {A: "restored", B: "left_alone"}
    assert [verdict.detail["faces"] for verdict in s.verdicts()] == [{"restored": 2}, {}]


def test_the_gate_lets_only_very_poor_faces_through_and_records_the_others():
    gate = RECIPE.stage("gfpgan")
    for quality, expected in ((0.1, 1), (0.9, 0)):
        s = shard(A)
        s.apply(RECIPE.stages[0], detected(A, 1))
        through(s, until="gfpgan", quality=quality)
        items, shut = s.items(gate)
        assert (len(items), len(shut)) == (expected, 1 - expected)
        assert all(event.reason_code == "gate_not_met" and event.state == "skipped" for event in shut)


def test_a_face_that_is_already_good_goes_no_further_and_the_file_is_copied():
    s = shard(A)
    s.apply(RECIPE.stages[0], detected(A, 1))
    through(s, until="paste_back", quality=5.0)
    assert s.items(RECIPE.stage("pisa_sr"))[0] == []
    (item,) = s.items(RECIPE.stage("paste_back"))[0]
    assert item.faces == ()
    through(s, quality=5.0)
    assert outcomes(s) == {A: "left_alone"}
    assert s.verdicts()[0].reason_code == "sharp_enough"


def test_what_is_measured_after_a_gate_leaves_nobody_alone():
    """The last stage looks at the same images again, and its numbers say nothing of the way that a face went."""
    s = shard(A)
    s.apply(RECIPE.stages[0], detected(A, 1))
    through(s, until="evaluate", quality=0.5)
    again = {f"{metric}.{image}": 5.0 for metric in ("quality", "sharpness") for image in ("aligned", "restored")}
    s.apply(RECIPE.stage("evaluate"), [told(A, "done", "scored", face=0, metrics=again)])
    assert outcomes(s) == {A: "restored"}


def test_a_rejected_face_is_never_pasted():
    s = shard(A)
    s.apply(RECIPE.stages[0], detected(A, 1))
    through(s, until="paste_back", identity="rejected_identity")
    (item,) = s.items(RECIPE.stage("paste_back"))[0]
    assert item.faces == ()
    through(s, identity="rejected_identity")
    assert outcomes(s) == {A: "rejected_identity"}


def test_a_quarantined_face_keeps_its_file_out_of_the_restored_tree():
    s = shard(A, B)
    s.apply(RECIPE.stages[0], detected(A, 2) + detected(B, 1))
    s.apply(RECIPE.stage("score_input"), [told(A, "quarantined", "killed_worker", face=1)])
    through(s, until="paste_back")
    assert [item.image_id for item in s.items(RECIPE.stage("paste_back"))[0]] == [B]
    through(s)
    assert outcomes(s) == {A: "quarantined", B: "restored"}


def test_a_broken_picture_needs_no_further_stage():
    s = shard(A)
    s.apply(RECIPE.stages[0], [told(A, "quarantined", "corrupt", "cut short")])
    assert all(s.complete(stage) for stage in RECIPE.stages[1:])
    assert outcomes(s) == {A: "quarantined"}


def test_an_image_that_was_not_reached_is_pending():
    assert outcomes(shard(A)) == {A: "pending"}


@pytest.fixture
def finished():
    s = shard(A)
    s.apply(RECIPE.stages[0], detected(A, 1))
    through(s)
    return [
        replace(event, stage=stage, stage_digest=DIGESTS[stage])
        for stage, events in s.events.items()
        for event in events.values()
    ]


def lies_there(paths, event):
    return True


def test_a_second_run_has_nothing_to_do(finished):
    s = shard(A)
    s.adopt(finished, lambda uri: True, lies_there)
    assert all(s.complete(stage) for stage in RECIPE.stages)


def test_rows_of_another_digest_are_not_taken_over_and_those_before_it_are(finished):
    s = shard(A)
    s.adopt(
        [
            replace(event, stage_digest="old")
            if event.stage in ("skin_tone", "identity", "paste_back", "evaluate")
            else event
            for event in finished
        ],
        lambda uri: True,
        lies_there,
    )
    to_do = [stage.id for stage in RECIPE.stages if not s.complete(stage)]
    assert to_do[0] == "skin_tone"
    through(s)
    assert outcomes(s) == {A: "restored"}


def test_lost_intermediates_rerun_what_made_them_only_when_somebody_reads_them(finished):
    s = shard(A)
    s.adopt(finished, lambda uri: False, lies_there)
    assert all(s.complete(stage) for stage in RECIPE.stages), "nothing has to run, so nobody misses them"
    s = shard(A)
    s.adopt([event for event in finished if event.stage != "evaluate"], lambda uri: False, lies_there)
    assert not s.complete(RECIPE.stages[0])


@pytest.mark.parametrize(("state", "again"), [("failed_retryable", True), ("pending", True), ("quarantined", False)])
def test_failed_and_reopened_rows_are_tried_again_and_quarantined_ones_are_not(finished, state, again):
    events = [replace(event, state=state) if event.stage == "dehaze" else event for event in finished]
    s = shard(A)
    s.adopt(events, lambda uri: True, lies_there)
    assert (not s.complete(RECIPE.stage("dehaze"))) == again


def test_adopting_or_applying_twice_changes_nothing(finished):
    s = shard(A)
    s.adopt(finished, lambda uri: True, lies_there)
    before = outcomes(s)
    s.adopt(finished, lambda uri: True, lies_there)
    assert outcomes(s) == before


def test_what_failed_for_want_of_a_lost_intermediate_is_done_again_with_what_made_it(finished):
    s = shard(A)
    s.adopt(finished, lambda uri: True, lies_there)
    failed = replace(s.events["dehaze"][A, 0], state="failed_retryable", reason_code="infrastructure")
    s.apply(RECIPE.stage("dehaze"), [failed])
    assert not s.forget_lost(lambda uri: True), "the images are there: it was something else"
    assert outcomes(s) == {A: "failed"}
    assert s.forget_lost(lambda uri: False)
    assert not s.complete(RECIPE.stages[0])
    s.apply(RECIPE.stages[0], detected(A, 1))
    through(s)
    assert outcomes(s) == {A: "restored"}
