"""The files of an evaluation: one Parquet row per face, and a JSON file with what the numbers mean.

It knows columns and names, reads and writes whole files, and computes nothing.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, JsonValue, ValidationError

from infra.facts import Facts, Record
from infra.problems import ForPeople
from infra.storage import Storage, StorageMissingError
from tasks.measuring.challenge import Overall, SubsetSummary
from tasks.measuring.metrics import Better

FACES, FACTS = "evaluation.parquet", "evaluation.json"
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


class EvaluationMissing(ForPeople):
    """There is no evaluation in the folder, or one that this version cannot read."""

    exit_code = 2


class MetricFacts(Record):
    """How a metric was taken. digest: of all that its numbers depend on. weights: name → sha256."""

    title: str = ""
    better: Better | Literal[""] = "higher"
    kind: str = ""
    digest: str = ""
    weights: dict[str, str] = Field(default_factory=dict)


class Example(Record):
    """A picture that could not be measured, the code of the reason, and the reason in words."""

    path: str
    problem: str
    problem_text: str


class EvaluationFacts(Facts):
    """What the numbers of an evaluation mean.

    restored, against, truth, workspace: addresses as they are shown, without secrets. started, finished: ISO 8601,
    UTC. seconds: by the clock; stages: seconds inside each metric, added over workers. sample: share of the pictures.
    detector: how faces were looked for; None in aligned pictures. missing: metric → why it was not taken. problems:
    reason code → pictures or faces; examples: the first of them. unrestored: inputs without a restored picture.
    """

    dataset: str | None = None
    restored: str = ""
    against: str = ""
    truth: str | None = None
    workspace: str | None = None
    software: str = ""
    device: str = ""
    run_id: str = ""
    started: str = ""
    sample: float = 1.0
    aligned: bool = False
    detector: dict[str, JsonValue] | None = None
    metrics: dict[str, MetricFacts] = Field(default_factory=dict)
    missing: dict[str, str] = Field(default_factory=dict)
    finished: str = ""
    seconds: float | None = None
    subsets: dict[str, SubsetSummary] = Field(default_factory=dict)
    overall: Overall = Field(default_factory=Overall)
    problems: dict[str, int] = Field(default_factory=dict)
    examples: list[Example] = Field(default_factory=list)
    folder: str = ""
    unrestored: int = 0
    stages: dict[str, float] = Field(default_factory=dict)

    @property
    def unmeasured(self) -> int:
        """How many pictures or faces could not be measured, though there was something to measure."""
        return sum(n for code, n in self.problems.items() if code not in NOTHING_TO_MEASURE)


class EvaluationTold(EvaluationFacts):
    """What a command answers: also a row in Markdown beside the published ones, and the page's address."""

    table: str
    report: str


@dataclass(frozen=True)
class Evaluation:
    """An evaluation as its files hold it: `facts` of evaluation.json, `faces` with COLUMNS and the metrics."""

    facts: EvaluationFacts
    faces: pa.Table

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that were computed per face, in the order of the columns."""
        return tuple(self.faces.column_names[len(COLUMNS) :])


def faces_schema(metrics: Sequence[str]) -> pa.Schema:
    """COLUMNS and one nullable double for each metric."""
    return pa.schema([*COLUMNS, *(pa.field(name, pa.float64()) for name in metrics)])


def write_evaluation(storage: Storage, facts: EvaluationFacts, faces: pa.Table) -> None:
    """Writes both files, each atomically; the JSON file last, so that its presence says that both are there.

    Raises ValueError where a column of COLUMNS is missing, in another place, or of another type.
    """
    metrics = faces.column_names[len(COLUMNS) :]
    if faces.schema.remove_metadata() != faces_schema(metrics):
        raise ValueError(f"expected the columns of {faces_schema(metrics)}, came {faces.schema}")
    storage.write_atomic(FACES, _parquet(faces))
    storage.write_atomic(FACTS, facts.to_json())


def read_evaluation(storage: Storage) -> Evaluation:
    """Reads both files. Raises EvaluationMissing where they are not there or of a newer kind."""
    try:
        facts = EvaluationFacts.model_validate_json(storage.read_bytes(FACTS))
        faces = pq.read_table(pa.BufferReader(storage.read_bytes(FACES)))
    except ValidationError as error:
        raise EvaluationMissing(
            f"the evaluation in {storage.shown_url} is of a kind that this version does not read ({error}); install a "
            "newer one"
        ) from error
    except StorageMissingError as error:
        raise EvaluationMissing(
            f"there is no evaluation in {storage.shown_url} (expected {FACTS} and {FACES}); `mpsr evaluate` makes one"
        ) from error
    return Evaluation(facts, faces)


def _parquet(faces: pa.Table) -> memoryview:
    sink = io.BytesIO()
    pq.write_table(faces.replace_schema_metadata(None), sink, compression="zstd", row_group_size=100_000)
    return sink.getbuffer()
