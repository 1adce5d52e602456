"""The files of an evaluation: one Parquet row per face, and a JSON file with what the numbers mean.

It knows columns and names, reads and writes whole files, and computes nothing.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra.storage import Storage, StorageMissingError

FACES, FACTS = "evaluation.parquet", "evaluation.json"
SCHEMA = 1
PROBLEMS: Mapping[str, str] = {
    "input_missing": "no picture of that name is among the inputs",
    "truth_missing": "no picture of that name is among the true pictures",
    "ambiguous": "several pictures have that name, so that it is not clear which belongs to which",
    "sizes_differ": "the pictures of a pair differ in size",
    "no_subset": "the picture lies in none of the data set's subsets",
    "no_landmarks": "the data set's table of landmarks has no row of that name",
    "no_face": "no face was found in the input",
    "no_alignment": "the landmarks determine no alignment",
    "measure_failed": "a metric could not be computed on this picture",
}
"""Why a pair is not measured, beside the codes of `tasks.books.REASONS` for files that cannot be read or decoded."""

NOTHING_TO_MEASURE = ("no_face",)
"""Problems that are none: there is simply nothing in the picture that could be measured."""

COLUMNS = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("face", pa.int16(), nullable=False),
        pa.field("subset", pa.string(), nullable=False),
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("restored_sha256", pa.string(), nullable=False),
        pa.field("input_path", pa.string()),
        pa.field("input_sha256", pa.string()),
        pa.field("truth_path", pa.string()),
        pa.field("truth_sha256", pa.string()),
        pa.field("problem", pa.string(), nullable=False),
        pa.field("problem_text", pa.string(), nullable=False),
        pa.field("points", pa.list_(pa.float32())),
        pa.field("matrix", pa.list_(pa.float64())),
    ]
)
"""The columns that every evaluation has; one nullable double for each metric follows.

path, input_path, truth_path: relative to their trees, as the ledger spells names. key: `path` without suffix.
face: n-th face of the pair, -1 where the pair as a whole could not be measured (then `problem` says why).
points: x, y of the five landmarks in the crop. matrix: 2 × 3 row by row, from the picture to its 512-pixel crop;
null where the picture is the crop.
"""


class EvaluationMissing(LookupError):
    """There is no evaluation in the folder, or one that this version cannot read."""


@dataclass(frozen=True)
class Evaluation:
    """An evaluation as its files hold it: `facts` of evaluation.json, `faces` with COLUMNS and the metrics."""

    facts: dict[str, Any]
    faces: pa.Table

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that were computed per face, in the order of the columns."""
        return tuple(self.faces.column_names[len(COLUMNS) :])


def unmeasured(facts: Mapping[str, Any]) -> int:
    """How many pictures or faces could not be measured, though there was something to measure."""
    return sum(n for code, n in facts["problems"].items() if code not in NOTHING_TO_MEASURE)


def faces_schema(metrics: Sequence[str]) -> pa.Schema:
    """COLUMNS and one nullable double for each metric."""
    return pa.schema([*COLUMNS, *(pa.field(name, pa.float64()) for name in metrics)])


def write_evaluation(storage: Storage, facts: Mapping[str, Any], faces: pa.Table) -> None:
    """Writes both files, each atomically; the JSON file last, so that its presence says that both are there.

    Raises ValueError where a column of COLUMNS is missing, in another place, or of another type.
    """
    metrics = faces.column_names[len(COLUMNS) :]
    if faces.schema.remove_metadata() != faces_schema(metrics):
        raise ValueError(f"expected the columns of {faces_schema(metrics)}, came {faces.schema}")
    storage.write_atomic(FACES, _parquet(faces))
    storage.write_atomic(FACTS, json.dumps({"schema": SCHEMA, **facts}, indent=1, ensure_ascii=True).encode())


def read_evaluation(storage: Storage) -> Evaluation:
    """Reads both files. Raises EvaluationMissing where they are not there or of a newer kind."""
    try:
        facts = json.loads(storage.read_bytes(FACTS))
        if facts["schema"] > SCHEMA:
            raise EvaluationMissing(
                f"the evaluation in {storage.shown_url} has schema {facts['schema']}; this version reads up to "
                f"{SCHEMA}: install a newer one"
            )
        faces = pq.read_table(pa.BufferReader(storage.read_bytes(FACES)))
    except StorageMissingError as error:
        raise EvaluationMissing(
            f"there is no evaluation in {storage.shown_url} (expected {FACTS} and {FACES}); `mpsr evaluate` makes one"
        ) from error
    return Evaluation(facts, faces)


def _parquet(faces: pa.Table) -> memoryview:
    sink = io.BytesIO()
    pq.write_table(faces.replace_schema_metadata(None), sink, compression="zstd", row_group_size=100_000)
    return sink.getbuffer()
