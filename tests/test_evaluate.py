"""Evaluating restored pictures: files, pairing, and the whole protocol on the real engine in miniature."""

from __future__ import annotations

import pyarrow as pa
import pytest

from infra.storage import Storage
from tasks.evaluation_files import COLUMNS, EvaluationMissing, faces_schema, read_evaluation, write_evaluation


def face(**more):
    blank = dict.fromkeys(COLUMNS.names)
    known = {"path": "a.png", "key": "a", "face": 0, "subset": "", "pair_id": "0" * 64, "restored_sha256": "1" * 64}
    return blank | known | {"problem": "", "problem_text": ""} | more


def test_an_evaluation_reads_as_it_was_written(tmp_path):
    rows = [face(points=[0.5] * 10, niqe=3.5), face(path="b.png", key="b", face=-1, problem="corrupt", niqe=None)]
    faces = pa.Table.from_pylist(rows, schema=faces_schema(["niqe", "quality"]))
    with pytest.raises(EvaluationMissing, match="mpsr evaluate"):
        read_evaluation(Storage(tmp_path))
    write_evaluation(Storage(tmp_path), {"sample": 1.0}, faces)
    again = read_evaluation(Storage(tmp_path))
    assert again.faces.equals(faces)
    assert again.metrics == ("niqe", "quality")
    assert again.facts == {"schema": 1, "sample": 1.0}
    with pytest.raises(ValueError, match="expected the columns"):
        write_evaluation(Storage(tmp_path), {}, faces.drop_columns(["key"]))
