"""What the ledger of an evaluation says when detectors change, pairs are given up, and names say little."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import cv2
import numpy as np
import pyarrow as pa
import pytest

from flows.evaluation.plan import PAIRS, _located
from flows.evaluation.totals import _joined, _measured
from infra.ledger.ledger import Ledger
from infra.ledger.rows import Event
from infra.storage.storage import Storage
from tasks.archive.scan import scan_archive
from tasks.measuring.matching import Rules, Trees, matched
from tasks.measuring.pairs import (
    FACES,
    INPUT,
    RESTORED,
    Located,
    PairItem,
    PairResult,
    at_stage,
    given_up,
    result_of_whole,
)
from tasks.stages.detect_align import DetectAlignSettings

PAIR = "ab" * 32


def item(lacking):
    return PairItem(PAIR, {}, tuple(lacking))


def results_of(faces, metrics, lacking, digests):
    """What a worker says of a pair with so many faces; face n has the value n + 1."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    seen = Event(image_id=PAIR, state="done", reason_code="ok", started=now, finished=now)
    where = Located(np.ones((5, 2)), np.eye(2, 3)).to_detail()
    results = [result_of_whole(item(lacking), seen, digests)]
    for n in range(faces):
        face = replace(seen, face=n)
        events = [at_stage(replace(face, detail=where), FACES, digests)] if FACES in lacking else []
        events += [at_stage(replace(face, metrics={name: n + 1.0}), name, digests) for name in metrics]
        results.append(PairResult(PAIR, n, "ok", tuple(events)))
    return results


class Numbers:
    """A ledger of one pair."""

    def __init__(self, folder):
        self.ledger, self.token = Ledger.open(Storage(folder), buckets=1), 0

    def record(self, results):
        self.token += 1
        events = [event for result in results for event in result.events]
        for stage in sorted({event.stage for event in events}):
            told = {"run_id": f"run-{self.token}", "token": self.token, "bucket": 0}
            self.ledger.append_events([event for event in events if event.stage == stage], stage=stage, **told)

    def run(self, digests):
        return SimpleNamespace(detector=DetectAlignSettings(), ledger=self.ledger, digests=digests)

    def faces(self, digests):
        metrics = [name for name in digests if name != FACES]
        whole = dict.fromkeys(PAIRS.names, "") | {"pair_id": PAIR, "points": None, "square": False}
        measured, _ = _measured(self.run(digests), metrics)
        return _joined(pa.Table.from_pylist([whole], schema=PAIRS), measured, metrics)[0]


@pytest.fixture
def numbers(tmp_path):
    return Numbers(tmp_path)


def test_a_further_metric_is_taken_of_the_faces_that_todays_detector_has_seen(numbers):
    numbers.record(results_of(3, ["sharpness"], [FACES, "sharpness"], {FACES: "compact", "sharpness": "1"}))
    today = {FACES: "yunet", "sharpness": "2", "quality": "3"}
    numbers.record(results_of(2, ["sharpness"], [FACES, "sharpness"], today))
    found = _located(numbers.run(today), [PAIR])[PAIR]
    assert [(face.points.tolist(), face.matrix.tolist()) for face in found] == [
        (np.ones((5, 2)).tolist(), np.eye(2, 3).tolist())
    ] * 2
    numbers.record(results_of(2, ["quality"], ["quality"], today))
    assert numbers.faces(today).select(["face", "quality", "problem"]).to_pylist() == [
        {"face": 0, "quality": 1.0, "problem": ""},
        {"face": 1, "quality": 2.0, "problem": ""},
    ]
    assert numbers.faces(today)["points"].to_pylist() == [[1.0] * 10] * 2
    assert numbers.faces(today)["matrix"].to_pylist() == [[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]] * 2


def test_a_pair_given_up_for_one_metric_leaves_no_silent_hole(numbers):
    digests = {FACES: "d", "sharpness": "1", "quality": "2"}
    numbers.record(results_of(2, ["sharpness"], [FACES, "sharpness"], digests))
    numbers.record([given_up(item(["quality"]), "out_of_memory", "no room on the GPU", digests)])
    for face in numbers.faces(digests).to_pylist():
        assert (face["problem"], face["sharpness"] > 0, face["quality"]) == ("measure_failed", True, None)
        assert face["problem_text"] == "no quality: no room on the GPU"
    numbers.record(results_of(2, ["quality"], ["quality"], digests))
    assert [face["problem"] for face in numbers.faces(digests).to_pylist()] == ["", ""], "another try mends it"


def test_a_result_is_read_as_it_was_written():
    digests = {FACES: "d", "sharpness": "1"}
    lost = given_up(item([FACES, "sharpness"]), "out_of_memory", "no room on the GPU", digests)
    for result in (*results_of(1, ["sharpness"], [FACES, "sharpness"], digests), lost):
        assert PairResult.from_json(result.to_json()) == result


def test_pictures_with_unusual_names_are_paired_like_all_others(tmp_path):
    picture = cv2.imencode(".jpg", np.full((32, 32, 3), 90, np.uint8))[1].tobytes()
    for name in ("one.jpg", "two.jfif", "three", "four.2019"):
        for role in ("in", "out"):
            Storage(tmp_path / role).write_atomic(name, picture)
    Storage(tmp_path / "out").write_atomic("README", b"no picture")
    Storage(tmp_path / "out").write_atomic("broken.jpg", b"no picture, but says so")
    trees = Trees({RESTORED: Storage(tmp_path / "out"), INPUT: Storage(tmp_path / "in")}, Rules())
    rows = [(row, *row.path.split("/", 1)) for row in scan_archive(trees, {})]
    files = {
        role: [replace(row, path=path) for row, folder, path in rows if folder == name]
        for role, name in trees.names.items()
    }
    pairs = {pair.path: pair.problem for pair in matched(files, Rules())}
    assert pairs == {
        "broken.jpg": "not_an_image",
        "four.2019": "",
        "one.jpg": "",
        "three": "",
        "two.jfif": "",
    }
