"""What the ledger of an evaluation says when detectors change, pairs are given up, and names say little."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pyarrow as pa
import pytest

from flows.evaluation.plan import PAIRS, _located
from flows.evaluation.rows import events_of, given_up
from flows.evaluation.totals import _joined, _measured
from infra.ledger.ledger import Ledger
from infra.storage.storage import Storage
from tasks.archive.scan import scan_archive
from tasks.measuring.matching import INPUT, RESTORED, Rules, Trees, matched
from tasks.measuring.measurer import FACES

PAIR = "ab" * 32
NOW = "2026-01-01T00:00:00+00:00"


def rows_of(faces, metrics):
    """What a worker says of a pair with so many faces; face n has the value n + 1."""
    said = {"image_id": PAIR, "state": "done", "reason_code": "ok", "reason": "", "started": NOW, "finished": NOW}
    said |= {"metrics": metrics, "milliseconds": {}, "failed": {}, "output_uri": None, "face": -1}
    where = {"points": [1.0] * 10, "matrix": [1, 0, 0, 0, 1, 0]}
    values = [{"face": n, "detail": where, "values": dict.fromkeys(metrics, n + 1.0)} for n in range(faces)]
    return [said, *(said | each for each in values)]


class Numbers:
    """A ledger of one pair."""

    def __init__(self, folder):
        self.ledger, self.token = Ledger.open(Storage(folder), buckets=1), 0

    def record(self, rows, lacking, digests):
        self.token += 1
        for stage in lacking:
            events = [event for row in rows for event in events_of(row, lacking, digests) if event["stage"] == stage]
            told = {"run_id": f"run-{self.token}", "token": self.token, "bucket": 0}
            if events:
                self.ledger.append_events(events, stage=stage, **told)

    def run(self, digests):
        return SimpleNamespace(detector={}, ledger=self.ledger, digests=digests)

    def faces(self, digests):
        metrics = [name for name in digests if name != FACES]
        whole = dict.fromkeys(PAIRS.names, "") | {"pair_id": PAIR, "points": None, "square": False}
        measured, _ = _measured(self.run(digests), metrics)
        return _joined(pa.Table.from_pylist([whole], schema=PAIRS), measured, metrics)[0]


@pytest.fixture
def numbers(tmp_path):
    return Numbers(tmp_path)


def test_a_further_metric_is_taken_of_the_faces_that_todays_detector_has_seen(numbers):
    numbers.record(rows_of(3, ["sharpness"]), [FACES, "sharpness"], {FACES: "compact", "sharpness": "1"})
    today = {FACES: "yunet", "sharpness": "2", "quality": "3"}
    numbers.record(rows_of(2, ["sharpness"]), [FACES, "sharpness"], today)
    assert len(_located(numbers.run(today), [PAIR])[PAIR]) == 2
    numbers.record(rows_of(2, ["quality"]), ["quality"], today)
    assert numbers.faces(today).select(["face", "quality", "problem"]).to_pylist() == [
        {"face": 0, "quality": 1.0, "problem": ""},
        {"face": 1, "quality": 2.0, "problem": ""},
    ]


def test_a_pair_given_up_for_one_metric_leaves_no_silent_hole(numbers):
    digests = {FACES: "d", "sharpness": "1", "quality": "2"}
    numbers.record(rows_of(2, ["sharpness"]), [FACES, "sharpness"], digests)
    failure = SimpleNamespace(item={"key": PAIR}, reason_code="out_of_memory", reason="no room on the GPU")
    numbers.record([given_up(failure)], ["quality"], digests)
    for face in numbers.faces(digests).to_pylist():
        assert (face["problem"], face["sharpness"] > 0, face["quality"]) == ("measure_failed", True, None)
        assert face["problem_text"] == "no quality: no room on the GPU"
    numbers.record(rows_of(2, ["quality"]), ["quality"], digests)
    assert [face["problem"] for face in numbers.faces(digests).to_pylist()] == ["", ""], "another try mends it"


def test_pictures_with_unusual_names_are_paired_like_all_others(tmp_path):
    picture = cv2.imencode(".jpg", np.full((32, 32, 3), 90, np.uint8))[1].tobytes()
    for name in ("one.jpg", "two.jfif", "three", "four.2019"):
        for role in ("in", "out"):
            Storage(tmp_path / role).write_atomic(name, picture)
    Storage(tmp_path / "out").write_atomic("README", b"no picture")
    Storage(tmp_path / "out").write_atomic("broken.jpg", b"no picture, but says so")
    trees = Trees({RESTORED: Storage(tmp_path / "out"), INPUT: Storage(tmp_path / "in")}, Rules())
    files = {RESTORED: [], INPUT: []}
    for row in scan_archive(trees, {}):
        files[trees.role(row["path"])].append(row | {"path": row["path"].partition("/")[2]})
    pairs = {row["path"]: row["problem"] for row in matched(files, Rules())}
    assert pairs == {
        "broken.jpg": "not_an_image",
        "four.2019": "",
        "one.jpg": "",
        "three": "",
        "two.jfif": "",
    }
