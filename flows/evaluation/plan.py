"""Which pairs there are, what each still lacks, and the portions in which that is measured.

A portion is a pure function of the pairs' ids and of how many there are, so that an evaluation that was cut short
meets the same portions again and finds what its workers left.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from flows.evaluation.run import EvaluationRun
from flows.session import prefix_bits, prefix_of
from infra.ledger import bucket_of, known_files
from tasks.archive import scan_archive
from tasks.measuring import FACES, FID, INPUT, RESTORED, ROLES, TRUTH, Row, matched
from tasks.pictures import Limits

if TYPE_CHECKING:
    from tasks.measuring import Item

SEGMENT = 50_000
PAIRS = pa.schema(
    {
        **dict.fromkeys(("path", "key", "subset", "pair_id", "restored_sha256"), pa.string()),
        **dict.fromkeys(("input_path", "input_sha256", "truth_path", "truth_sha256"), pa.string()),
        **dict.fromkeys(("problem", "problem_text"), pa.string()),
        "points": pa.list_(pa.float64()),
        "square": pa.bool_(),
    }
)
SETTLED = ("done", "skipped", "quarantined")
"""States of the ledger that an evaluation does not try to better."""


@dataclass(frozen=True)
class Portion:
    """Some pairs of one bucket, with what each lacks (stages of the ledger)."""

    id: str
    bucket: int
    lacking: Mapping[str, tuple[str, ...]]
    items: Sequence[Item]

    def work_key(self, run: EvaluationRun) -> str:
        """Names this work in this evaluation folder: what a cache may be asked for."""
        said = [f"{pair_id} {stage} {run.digests[stage]}" for pair_id, which in self.lacking.items() for stage in which]
        return hashlib.sha256("\n".join([run.folder.url, *said]).encode()).hexdigest()


@dataclass(frozen=True)
class Work:
    """All that is to be measured: pair_id → stages that the ledger lacks, ordered by bucket and id."""

    pairs: pa.Table
    lacking: Mapping[str, tuple[str, ...]]
    prefix_bits: int

    def portions(self, run: EvaluationRun) -> Iterator[Portion]:
        """The work, portion by portion."""
        row_of = {pair_id: n for n, pair_id in enumerate(self.pairs.column("pair_id").to_pylist())}
        for (bucket, prefix), members in groupby(self.lacking, key=partial(self._place, run)):
            lacking = {pair_id: self.lacking[pair_id] for pair_id in members}
            rows = self.pairs.take([row_of[pair_id] for pair_id in lacking]).to_pylist()
            located = _located(run, [p for p, which in lacking.items() if FACES not in which])
            items = [_item(row, lacking[row["pair_id"]], located.get(row["pair_id"])) for row in rows]
            yield Portion(f"{bucket:02x}-{prefix:x}", bucket, lacking, items)

    def _place(self, run: EvaluationRun, pair_id: str) -> tuple[int, int]:
        return bucket_of(pair_id, run.ledger.buckets), prefix_of(pair_id, self.prefix_bits)


def find_pairs(run: EvaluationRun) -> pa.Table:
    """Looks at every file that belongs to the evaluation and matches them: a table of PAIRS, ordered by path.

    Settles on the way whether the pictures are aligned faces.
    """
    news = scan_archive(run.trees, known_files(run.ledger), limits=Limits(max_pixels=run.settings.max_pixels))
    while part := list(islice(news, SEGMENT)):
        run.ledger.append_inventory(part, run_id=run.id)
    columns = ["path", "image_id", "width", "height", "problem", "problem_text"]
    files = run.ledger.files(columns=columns)
    by_role = {role: _files_of(files, run.trees.names[role]) for role in ROLES if role in run.trees.names}
    rows = matched(by_role, run.rules)
    parts = []
    while part := list(islice(rows, SEGMENT)):
        parts.append(pa.Table.from_pylist(part, schema=PAIRS))
    pairs = pa.concat_tables(parts).sort_by("path") if parts else PAIRS.empty_table()
    whole = pairs.filter(pc.equal(pairs["problem"], ""))
    run.settle_alignment(squares=bool(len(whole)) and pc.all(whole["square"]).as_py())
    return pairs


def plan(run: EvaluationRun, pairs: pa.Table) -> Work:
    """What the ledger lacks, bucket by bucket."""
    whole = pairs.filter(pc.equal(pairs["problem"], ""))
    in_order = list(dict.fromkeys(whole["pair_id"].to_pylist()))
    for_fid = set(in_order[: run.fid_cap])
    metrics = tuple(name for name in run.digests if name not in (FACES, FID))
    with_fid = (*metrics, FID) if FID in run.digests else metrics
    lacking: dict[str, tuple[str, ...]] = {}
    by_bucket = sorted((bucket_of(pair_id, run.ledger.buckets), pair_id) for pair_id in in_order)
    for bucket, members in groupby(by_bucket, key=itemgetter(0)):
        held, closed = _held(run, bucket)
        for _, pair_id in members:
            wanted = (FACES, *(with_fid if pair_id in for_fid else metrics))
            lacks = () if pair_id in closed else tuple(s for s in wanted if s not in held.get(pair_id, ()))
            if lacks:
                lacking[pair_id] = lacks
    return Work(pairs, lacking, prefix_bits(len(in_order), run.settings))


def _held(run: EvaluationRun, bucket: int) -> tuple[Mapping[str, Collection[str]], Collection[str]]:
    """pair_id → stages that the ledger has under today's digests; and the pairs of which nothing more will come."""
    columns = ["image_id", "stage", "stage_digest", "state", "output_uri"]
    table = run.ledger.latest(bucket=bucket, columns=columns)
    named = pc.binary_join_element_wise(table["stage"], table["stage_digest"], ":")
    current = pa.array([f"{stage}:{digest}" for stage, digest in run.digests.items()])
    table = table.filter(pc.and_(pc.is_in(named, current), pc.is_in(table["state"], pa.array(SETTLED))))
    lost = [uri for uri in pc.unique(table["output_uri"]).to_pylist() if uri and not run.folder.exists(uri)]
    table = table.filter(pc.invert(pc.is_in(table["output_uri"], pa.array(lost, pa.string()))))
    stages = table.group_by("image_id").aggregate([("stage", "distinct")])
    shut = table.filter(pc.and_(pc.equal(table["stage"], FACES), pc.not_equal(table["state"], "done")))
    held = zip(stages["image_id"].to_pylist(), stages["stage_distinct"].to_pylist(), strict=True)
    return dict(held), set(shut["image_id"].to_pylist())


def _located(run: EvaluationRun, pair_ids: Sequence[str]) -> dict[str, list[str]]:
    """pair_id → what the ledger says of its faces, in order (JSON): they need not be looked for again."""
    if not pair_ids or run.detector is None:
        return {}
    columns = ["image_id", "face", "detail", "stage_digest"]
    found: dict[str, list[str]] = defaultdict(list)
    for row in run.ledger.latest(stage=FACES, image_ids=pair_ids, columns=columns).to_pylist():
        if row["face"] >= 0 and row["stage_digest"] == run.digests[FACES]:  # others another detector has seen
            found[row["image_id"]].append(row["detail"])
    return found


def _item(row: Row, lacks: Sequence[str], located: Sequence[str] | None) -> dict[str, Any]:
    roles = [role for role in (RESTORED, INPUT, TRUTH) if role == RESTORED or row[f"{role}_path"]]
    return {
        "key": row["pair_id"],
        **{role: row["path"] if role == RESTORED else row[f"{role}_path"] for role in roles},
        **{f"{role}_sha256": row[f"{role}_sha256"] for role in roles},
        "points": row["points"],
        "faces": [json.loads(text) for text in located or ()],
        "metrics": [stage for stage in lacks if stage != FACES],
    }


def _files_of(files: pa.Table, name: str) -> Iterator[Row]:
    """The inventory rows of one folder, paths relative to it."""
    for batch in files.filter(pc.starts_with(files["path"], f"{name}/")).to_batches(max_chunksize=10_000):
        yield from ({**row, "path": row["path"][len(name) + 1 :]} for row in batch.to_pylist())
