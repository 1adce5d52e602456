"""Adds an evaluation up: the ledger's rows become one table of faces, and that becomes means, failures and files."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import groupby, islice
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from flows.evaluation.run import EvaluationRun
from infra.ledger import Reader
from infra.storage import Storage
from tasks.measuring import (
    COLUMNS,
    FACES,
    FID,
    RESTORED,
    Evaluation,
    Example,
    Scored,
    Summary,
    challenge_csv,
    faces_schema,
    fid_of,
    load_gaussian,
    markdown_row,
    summarise,
)
from tasks.worker import intermediate

ROW = "row.md"
EXAMPLES = 10
_PIVOT = """
    SELECT image_id, face,
        any_value(CAST(json_extract(detail, '$.points') AS FLOAT[])) FILTER (stage = '{faces}') AS points,
        any_value(CAST(json_extract(detail, '$.matrix') AS DOUBLE[])) FILTER (stage = '{faces}') AS matrix,
        any_value(state) FILTER (stage = '{faces}') AS state,
        any_value(reason_code) FILTER (stage = '{faces}') AS reason_code,
        any_value(reason) FILTER (stage = '{faces}') AS reason,
        string_agg(reason, '; ' ORDER BY stage) FILTER (stage <> '{faces}' AND state <> 'done') AS failed,
        max(string_agg(reason, '; ' ORDER BY stage) FILTER (stage <> '{faces}' AND state <> 'done'))
            FILTER (face = -1) OVER (PARTITION BY image_id) AS given_up,
        any_value(output_uri) FILTER (stage = '{fid}') AS features
        {values}
    FROM ({latest}) WHERE concat(stage, ':', stage_digest) IN ({current})
    GROUP BY image_id, face ORDER BY image_id, face"""


@dataclass(frozen=True)
class Totals:
    """The table of faces, what it adds up to, and the milliseconds that each stage took."""

    faces: pa.Table
    summary: Summary
    milliseconds: dict[str, float]
    fid_problem: str


def add_up(run: EvaluationRun, pairs: pa.Table) -> Totals:
    """Everything that an evaluation says, from the pairs and from the ledger."""
    metrics = [name for name in run.digests if name not in (FACES, FID)]
    measured, milliseconds = _measured(run, metrics)
    faces, features = _joined(pairs, measured, metrics)
    distance, fid_problem = _fid(run, faces, features)
    return Totals(faces, summarise(Rows(faces, metrics), run.protocol, distance), milliseconds, fid_problem)


def evaluation_of(run: EvaluationRun, totals: Totals) -> Evaluation:
    """The evaluation as its files hold it."""
    faces, facts = totals.faces, run.facts()
    problems = Counter(faces.filter(pc.not_equal(faces["problem"], ""))["problem"].to_pylist())
    more = {
        "finished": datetime.now(UTC).isoformat(),
        "seconds": round(time.time() - run.session.started, 3),
        "subsets": totals.summary.subsets,
        "overall": totals.summary,
        "problems": dict(sorted(problems.items())),
        "examples": _examples(faces),
        "stages": {name: round(ms / 1000, 3) for name, ms in sorted(totals.milliseconds.items())},
    }
    if totals.fid_problem:
        more["metrics"] = {name: metric for name, metric in facts.metrics.items() if name != FID}
        more["missing"] = {**facts.missing, FID: totals.fid_problem}
    return Evaluation(facts.model_copy(update=more), faces)


def write_tables(run: EvaluationRun, totals: Totals) -> None:
    """The challenge's two CSV files, and a Markdown row beside the published ones."""
    name = name_of(run.folders[RESTORED])
    rows = Rows(totals.faces, [n for n in totals.faces.column_names if n not in COLUMNS.names])
    by_set, by_picture = challenge_csv(rows, totals.summary)
    texts = {f"{name}_total.csv": by_set, f"{name}.csv": by_picture, ROW: markdown_row(name, totals.summary)}
    for file, text in texts.items():
        run.folder.write_atomic(file, text.encode())


def _examples(faces: pa.Table) -> list[Example]:
    """The first problems by name; the table has them all."""
    told = faces.filter(pc.not_equal(faces["problem"], "")).select(["path", "problem", "problem_text"])
    return [Example.model_validate(row) for row in told.slice(0, EXAMPLES).to_pylist()]


def name_of(storage: Storage) -> str:
    """What the challenge's script calls a folder of results: its parent and itself."""
    parts = [part for part in storage.shown_url.split("/") if part and not part.endswith(":")]
    return "--".join(parts[-2:])


class Rows(Sequence[Scored]):
    """The measured faces of a table, one at a time: a million as Python objects would not fit."""

    def __init__(self, faces: pa.Table, metrics: Sequence[str]) -> None:
        self._metrics = list(metrics)
        self._table = faces.filter(pc.greater_equal(faces["face"], 0)).select(["path", "subset", *metrics])

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @overload
    def __getitem__(self, place: int) -> Scored: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Scored]: ...
    def __getitem__(self, place: int | slice) -> Scored | Sequence[Scored]:
        if isinstance(place, slice):
            return [self[n] for n in range(*place.indices(len(self)))]
        return next(self._scored(self._table.slice(place % len(self), 1)))

    def __iter__(self) -> Iterator[Scored]:
        return self._scored(self._table)

    def _scored(self, table: pa.Table) -> Iterator[Scored]:
        for batch in table.to_batches(max_chunksize=10_000):
            for path, subset, *values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                yield Scored(path, subset, dict(zip(self._metrics, values, strict=True)))


def _measured(run: EvaluationRun, metrics: Sequence[str]) -> tuple[pa.Table, dict[str, float]]:
    """The ledger's rows under today's digests, one per face with a column per metric, ordered by pair and face."""
    current = ", ".join(f"'{stage}:{digest}'" for stage, digest in run.digests.items())
    values = "".join(
        f", any_value(element_at(metrics, '{name}')[1]) FILTER (stage = '{name}') AS {name}" for name in metrics
    )
    parts: list[pa.Table] = []
    milliseconds: Counter[str] = Counter()
    with run.ledger.reader() as reader:
        for bucket in range(run.ledger.buckets):
            latest = reader.latest(None, {bucket})
            sql = _PIVOT.format(faces=FACES, fid=FID, values=values, latest=latest, current=current)
            parts.append(reader.table(sql))
            milliseconds.update(_milliseconds(reader, latest, current))
    return pa.concat_tables(parts), dict(milliseconds)


def _milliseconds(reader: Reader, latest: str, current: str) -> dict[str, float]:
    sql = f"""SELECT stage, sum(device_ms) FROM ({latest})
        WHERE concat(stage, ':', stage_digest) IN ({current}) AND stage <> '{FACES}' GROUP BY stage"""
    return {stage: ms or 0.0 for stage, ms in reader.connection.execute(sql).fetchall()}


def _joined(pairs: pa.Table, measured: pa.Table, metrics: Sequence[str]) -> tuple[pa.Table, pa.Array]:
    """The faces in the order of the pairs, and where each face's features lie."""
    of_pair, of_face = _places(pairs, measured)
    left, right = pairs.take(of_pair), measured.take(of_face)
    problem, text = _problems(left, right, metrics)
    columns = {
        **{name: left[name] for name in COLUMNS.names if name in left.column_names},
        "face": pc.coalesce(right["face"], pa.scalar(-1, pa.int16())),
        "problem": problem,
        "problem_text": text,
        "points": right["points"],
        "matrix": right["matrix"],
        **{name: right[name] for name in metrics},
    }
    schema = faces_schema(metrics)
    return pa.table([columns[field.name].cast(field.type) for field in schema], schema=schema), right["features"]


def _places(pairs: pa.Table, measured: pa.Table) -> tuple[pa.Array, pa.Array]:
    """For every row to be: its pair's place, and its face's. A pair without faces has one row, of its own (face -1)."""
    spans, start = {}, 0
    for pair_id, members in groupby(measured["image_id"].to_pylist()):
        size = sum(1 for _ in members)
        spans[pair_id] = (start, size)
        start += size
    of_pair: list[int] = []
    of_face: list[int | None] = []
    whole = pc.equal(pairs["problem"], "").to_pylist()
    for n, (pair_id, is_whole) in enumerate(zip(pairs["pair_id"].to_pylist(), whole, strict=True)):
        begin, size = spans.get(pair_id, (0, 0)) if is_whole else (0, 0)
        places = list(range(begin + 1, begin + size)) if size > 1 else [begin] if size else [None]
        of_pair += [n] * len(places)
        of_face += places
    return pa.array(of_pair, pa.int64()), pa.array(of_face, pa.int64())


def _problems(left: pa.Table, right: pa.Table, metrics: Sequence[str]) -> tuple[pa.Array, pa.Array]:
    """Code and sentence of every row: the pair's, else that of measuring it, else of metrics that failed or lack."""
    failed = [
        own or whole for own, whole in zip(right["failed"].to_pylist(), _never_measured(right, metrics), strict=True)
    ]
    known = zip(
        left["problem"].to_pylist(),
        left["problem_text"].to_pylist(),
        *(right[name].to_pylist() for name in ("state", "reason_code", "reason")),
        failed,
        strict=True,
    )
    said = [_problem(*each) for each in known]
    return pa.array([code for code, _ in said], pa.string()), pa.array([text for _, text in said], pa.string())


def _never_measured(faces: pa.Table, metrics: Sequence[str]) -> list[str | None]:
    """Why a face lacks a number: its pair was given up while a further metric was taken of faces known before."""
    lacking: list[list[str]] = [[] for _ in range(len(faces))]
    for name in metrics:
        for row in np.flatnonzero(pc.is_null(faces[name]).to_numpy()):
            lacking[row].append(name)
    whys = faces["given_up"].to_pylist()
    return [
        f"no {', '.join(names)}: {why or 'not measured yet'}" if names else None
        for names, why in zip(lacking, whys, strict=True)
    ]


def _problem(
    problem: str, text: str, state: str | None, code: str | None, reason: str | None, failed: str | None
) -> tuple[str, str]:
    if problem:
        return problem, text
    if state != "done":
        return code or "pending", reason or ""
    return ("measure_failed", failed) if failed else ("", "")


def _fid(run: EvaluationRun, faces: pa.Table, features: pa.Array) -> tuple[float | None, str]:
    """The distance, or why there is none; of at most `fid_cap` faces, in the order of their paths."""
    if FID not in run.digests:
        return None, ""
    opened = lru_cache(maxsize=8)(lambda path: intermediate.read(run.folder, path))
    held = zip(faces["pair_id"].to_pylist(), faces["face"].to_pylist(), features.to_pylist(), strict=True)
    wanted = islice(((f"{pair}:{face}", path) for pair, face, path in held if path), run.fid_cap)
    vectors = [found.image(key, FID) for key, path in wanted if (found := opened(path)) is not None]
    stacked: NDArray[np.float32] = np.array(vectors, np.float32)
    try:
        return fid_of(stacked, load_gaussian(run.weights.path("fid_ffhq512")), run.fid_cap), ""
    except ValueError as error:
        return None, f"FID could not be computed: {error}"
