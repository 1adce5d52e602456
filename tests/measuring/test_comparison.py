"""Comparing two evaluations: intervals that hold what they promise, planted losses found, nothing lost on the way."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from tasks.comparing.comparison import compare
from tasks.comparing.intervals import GROUPS, intervals, pictures_needed
from tasks.comparing.pairing import ComparisonError
from tasks.measuring.challenge import Overall, SubsetSummary
from tasks.measuring.files import COLUMNS, Evaluation, EvaluationFacts, MetricFacts, faces_schema

BETTER = {"quality": "higher", "identity": "higher", "niqe": "lower"}
FACES = 12


def evaluation(values, *, faces_of=None, subset="", inputs=None, truth=None, missing=None, digest="d", subsets=None):
    """An evaluation whose face n is (picture n, face 0), or as `faces_of` says, with the given metrics' columns."""
    number = len(next(iter(values.values())))
    names = faces_of or [(f"p{n:02}", 0) for n in range(number)]
    keys, faces = zip(*names, strict=True)
    columns = dict.fromkeys(COLUMNS.names, [None] * number) | {
        "path": [f"{key}.png" for key in keys],
        "key": keys,
        "face": faces,
        "subset": [subset] * number,
        "pair_id": [f"{key}/{face}" for key, face in names],
        "restored_sha256": keys,
        "input_path": [f"{key}.jpg" for key in keys],
        "input_sha256": inputs or keys,
        "truth_sha256": [truth] * number,
        "problem": [""] * number,
        "problem_text": [""] * number,
    }
    facts = EvaluationFacts(
        metrics={m: MetricFacts(title=m, better=BETTER[m], digest=digest, kind="no_reference") for m in values},
        missing=missing or {},
        subsets=subsets or {},
        restored="somewhere",
    )
    return Evaluation(facts, pa.table({**columns, **values}, schema=faces_schema(list(values))))


def but(evaluation, **facts):
    """The evaluation with other facts."""
    return replace(evaluation, facts=evaluation.facts.model_copy(update=facts))


@pytest.fixture
def before():
    rng = np.random.default_rng(5)
    return {
        "quality": rng.uniform(0.4, 0.6, FACES),
        "identity": rng.uniform(0.65, 0.9, FACES),
        "niqe": rng.uniform(4, 6, FACES),
    }


def test_intervals_hold_the_truth_as_often_as_they_promise():
    """400 sets of 20 pictures with two faces each, faces of one picture alike; a skewed distribution."""
    rng, truth = np.random.default_rng(1), 1.0
    picture = np.repeat(np.arange(20), 2)
    alike = rng.exponential(1.0, (20, 400))[picture] + rng.normal(0, 0.2, (40, 400))
    settings = {"confidence": 0.95, "resamples": 1000, "seed": 0}
    low, high = intervals(alike, picture, **settings)
    assert 0.90 <= np.mean((low <= truth) & (truth <= high)) <= 0.98
    low, high = intervals(alike, np.arange(40), **settings)
    assert np.mean((low <= truth) & (truth <= high)) < 0.88, "drawn one by one, faces would promise too much"


def test_intervals_agree_with_the_formula_where_there_is_one():
    values = np.random.default_rng(2).normal(3.0, 2.0, (400, 1))
    low, high = intervals(values, np.arange(400), confidence=0.9, resamples=4000, seed=0)
    assert high[0] - low[0] == pytest.approx(2 * 1.649 * values.std(ddof=1) / 20, rel=0.05)
    assert (low[0] + high[0]) / 2 == pytest.approx(values.mean(), abs=0.02)


def test_a_large_set_is_pooled_and_its_interval_stays():
    rng = np.random.default_rng(3)
    number = 20 * GROUPS
    values = rng.normal(0.0, 1.0, (number, 1))
    low, high = intervals(values, np.arange(number), confidence=0.95, resamples=1000, seed=0)
    assert high[0] - low[0] == pytest.approx(2 * 1.96 / number**0.5, rel=0.12)


def test_the_same_seed_gives_the_same_numbers(before):
    after = {name: values + np.random.default_rng(0).normal(0, 0.1, FACES) for name, values in before.items()}
    first, second = (compare(evaluation(before), evaluation(after), resamples=500) for _ in range(2))
    other = compare(evaluation(before), evaluation(after), resamples=500, seed=1)
    assert first.model_dump() == second.model_dump()
    assert first.difference("niqe").low != other.difference("niqe").low


def test_gains_are_in_each_metric_s_own_direction(before):
    after = {"quality": before["quality"] + 0.1, "identity": before["identity"], "niqe": before["niqe"] + 1}
    found = compare(evaluation(before), evaluation(after), resamples=200)
    quality, identity, niqe = (found.difference(name) for name in ("quality", "identity", "niqe"))
    assert quality.gain == pytest.approx(0.1)
    assert (quality.low, quality.high) == pytest.approx((0.1, 0.1))
    assert (quality.verdict, quality.wins, quality.losses, quality.ties) == ("better", FACES, 0, 0)
    assert (niqe.verdict, niqe.gain, niqe.mean_b - niqe.mean_a) == ("worse", pytest.approx(-1), pytest.approx(1))
    assert (identity.verdict, identity.ties, identity.gain, identity.low) == ("not told apart", FACES, 0, 0)


def test_copies_of_a_picture_are_one_witness():
    values, copies = {"quality": np.linspace(0.4, 0.6, 8)}, ["one picture"] * 8
    better = {"quality": values["quality"] + 0.1}
    assert compare(evaluation(values, inputs=copies), evaluation(better, inputs=copies)).pictures == 1
    assert compare(evaluation(values), evaluation(better)).pictures == 8


def test_faces_that_were_looked_for_in_different_ways_are_not_compared(before):
    found = evaluation(before)
    a, b = (but(found, detector={"detector": name}) for name in ("yunet", "compact"))
    with pytest.raises(ComparisonError, match="measured with yunet, B with compact"):
        compare(a, b)
    with pytest.raises(ComparisonError, match="aligned pictures"):
        compare(a, but(b, detector=None))


def test_numbers_of_whole_sets_stand_side_by_side_only_where_they_mean_the_same(before):
    measured = evaluation(before)

    def with_fid(reference):
        fid = MetricFacts(title="FID", better="lower", kind="set", weights={"fid_ffhq512": reference})
        return but(measured, overall=Overall(fid=60.0, score=4.0), metrics=measured.facts.metrics | {"fid": fid})

    found = compare(with_fid("1"), with_fid("2"), resamples=200)
    assert (found.sets, sorted(found.not_compared)) == ({}, ["fid", "score"])
    assert compare(with_fid("1"), with_fid("1"), resamples=200).sets == {"fid": (60.0, 60.0), "score": (4.0, 4.0)}


def test_few_pictures_are_never_told_apart():
    assert pictures_needed(0.95) == 6
    for number, verdict, has_interval in ((5, "not told apart", False), (6, "better", True)):
        a, b = {"quality": np.full(number, 0.4)}, {"quality": np.linspace(0.5, 0.6, number)}
        found = compare(evaluation(a), evaluation(b), resamples=200).difference("quality")
        assert (found.verdict, found.low is not None) == (verdict, has_interval)
    one = [("p", n) for n in range(30)]
    found = compare(
        evaluation({"quality": np.full(30, 0.4)}, faces_of=one), evaluation({"quality": np.full(30, 0.6)}, faces_of=one)
    )
    assert found.pictures == 1, "thirty faces of one picture are one picture"
    assert (found.difference("quality").low, found.difference("quality").verdict) == (None, "not told apart")


def test_a_planted_regression_is_found_and_named(before):
    after = {name: values.copy() for name, values in before.items()}
    after["niqe"][7] += 3
    after["quality"][2] -= 0.02
    found = compare(evaluation(before), evaluation(after), resamples=200)
    assert [(r.key, r.metric) for r in found.worst] == [("p07", "niqe"), ("p02", "quality")]
    first = found.worst[0]
    assert (first.path_a, first.path_b, first.input_path) == ("p07.png", "p07.png", "p07.jpg")
    assert first.b - first.a == pytest.approx(3)
    assert found.difference("niqe").losses == 1


def test_a_planted_identity_swap_is_found_and_named(before):
    after = {name: values.copy() for name, values in before.items()}
    after["identity"][4], after["identity"][9] = 0.05, 0.45
    subsets = {"": SubsetSummary(threshold=0.6)}
    found = compare(evaluation(before, subsets=subsets), evaluation(after, subsets=subsets), resamples=200)
    changes = {change.threshold: change for change in found.identity}
    assert set(changes) == {0.3, 0.5, 0.6, None}
    assert changes[0.3].lost_faces == (("p04", 0),)
    assert changes[0.5].lost_faces == (("p04", 0), ("p09", 0)), "worst first"
    assert changes[None].lost == changes[0.6].lost == 2
    assert all(change.regained == change.failed_a == 0 for change in found.identity)
    assert (found.worst[0].key, found.worst[0].metric) == ("p04", "identity")
    back = compare(evaluation(after), evaluation(before), resamples=200)
    assert {change.threshold: change.regained for change in back.identity} == {0.3: 1, 0.5: 2, 0.6: 2}


def test_faces_that_cannot_be_paired_are_counted_and_named(before):
    names = [(f"p{n:02}", 0) for n in range(FACES)]
    other = [*names[1:-1], ("new", 0), ("p03", 1)]
    inputs = ["other" if name == ("p05", 0) else name[0] for name in other]
    found = compare(evaluation(before), evaluation(before, faces_of=other, inputs=inputs), resamples=200)
    assert (found.pairs, found.only_a, found.only_b, found.other_input) == (FACES - 3, 2, 2, 1)
    assert found.only_a_faces == (("p00", 0), ("p11", 0))
    assert found.only_b_faces == (("new", 0), ("p03", 1))
    assert found.other_input_faces == (("p05", 0),)
    assert len(found.table) == FACES - 3 + 2 + 2 + 1, "the table accounts for every face"
    assert json.loads(found.to_json())["only_a"] == 2


def test_metrics_that_one_side_lacks_are_named_never_compared(before):
    after = {"quality": before["quality"], "identity": before["identity"]}
    missing = {"niqe": "needs niqe_modelparameters", "musiq": "needs weights"}
    found = compare(evaluation(before), evaluation(after, missing=missing), resamples=200)
    assert [d.metric for d in found.differences] == ["quality", "identity"]
    assert found.not_compared["niqe"] == "not in B: needs niqe_modelparameters"
    assert found.not_compared["musiq"].startswith("not in A and B: ")
    with pytest.raises(KeyError):
        found.difference("niqe")
    other = compare(evaluation(before), evaluation(before, digest="new weights"), resamples=200)
    assert not other.differences
    assert all("different versions or weights" in why for why in other.not_compared.values())


def test_a_face_without_a_value_counts_for_no_mean(before):
    holes = before | {"quality": before["quality"].copy()}
    holes["quality"] = [None, *holes["quality"][1:]]
    found = compare(evaluation(before), evaluation(holes), resamples=200).difference("quality")
    assert (found.pairs, found.missing_a, found.missing_b) == (FACES - 1, 0, 1)
    assert found.mean_a == found.mean_b == pytest.approx(before["quality"][1:].mean())


def test_what_cannot_be_compared_is_refused_in_words(before):
    twice = [("p00", 0)] * 2 + [(f"p{n:02}", 0) for n in range(2, FACES)]
    with pytest.raises(ComparisonError, match="face 0 of 'p00' stands more than once in set B"):
        compare(evaluation(before), evaluation(before, faces_of=twice))
    with pytest.raises(ComparisonError, match="file names do not match"):
        compare(evaluation(before), evaluation(before, faces_of=[(f"q{n}", 0) for n in range(FACES)]))
    with pytest.raises(ComparisonError, match="different inputs"):
        compare(evaluation(before), evaluation(before, inputs=["x"] * FACES))
