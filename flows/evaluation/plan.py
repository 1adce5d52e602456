"""Which pairs there are, what each still lacks, and the portions in which that is measured.

A portion is a pure function of the pairs' ids and of how many there are, so that an evaluation that was cut short
meets the same portions again and finds what its workers left.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby, islice
from operator import itemgetter

import pyarrow as pa
import pyarrow.compute as pc

from flows.evaluation.run import EvaluationRun
from flows.session import prefix_bits, prefix_of
from infra.ledger import FileRow, bucket_of, events_of, files_of, known_files
from tasks.archive import scan_archive
from tasks.measuring import FACES, FID, ROLES, Located, Pair, PairItem, matched
from tasks.pictures import Limits

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
    """Some pairs of one bucket, with what each lacks."""

    id: str
    bucket: int
    items: Sequence[PairItem]

    def work_key(self, run: EvaluationRun) -> str:
        """Names this work in this evaluation folder: what a cache may be asked for."""
        said = [f"{item.key} {stage} {run.digests[stage]}" for item in self.items for stage in item.lacking]
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
            pair_ids = list(members)
            located = _located(run, [pair_id for pair_id in pair_ids if FACES not in self.lacking[pair_id]])
            pairs = [Pair(**row) for row in self.pairs.take([row_of[pair_id] for pair_id in pair_ids]).to_pylist()]
            items = [
                PairItem(
                    key=pair.pair_id,
                    files=pair.files,
                    lacking=self.lacking[pair.pair_id],
                    points=pair.points,
                    faces=tuple(located.get(pair.pair_id, ())),
                )
                for pair in pairs
            ]
            yield Portion(f"{bucket:02x}-{prefix:x}", bucket, items)

    def _place(self, run: EvaluationRun, pair_id: str) -> tuple[int, int]:
        return bucket_of(pair_id, run.ledger.buckets), prefix_of(pair_id, self.prefix_bits)


def find_pairs(run: EvaluationRun) -> pa.Table:
    """Looks at every file that belongs to the evaluation and matches them: a table of PAIRS, ordered by path.

    Settles on the way whether the pictures are aligned faces.
    """
    news = scan_archive(run.trees, known_files(run.ledger), limits=Limits(max_pixels=run.settings.max_pixels))
    while some := list(islice(news, SEGMENT)):
        run.session.record_files(some)
    columns = ["path", "image_id", "width", "height", "problem", "problem_text"]
    files = run.ledger.files(columns=columns)
    by_role = {role: _files_of(files, run.trees.names[role]) for role in ROLES if role in run.trees.names}
    rows = matched(by_role, run.rules)
    parts = []
    while part := list(islice(rows, SEGMENT)):
        parts.append(table_of(part))
    pairs = pa.concat_tables(parts).sort_by("path") if parts else PAIRS.empty_table()
    whole = pairs.filter(pc.equal(pairs["problem"], ""))
    run.settle_alignment(squares=bool(len(whole)) and pc.all(whole["square"]).as_py())
    return pairs


def table_of(pairs: Sequence[Pair]) -> pa.Table:
    """Pairs as rows of PAIRS."""
    columns = [[getattr(pair, field.name) for pair in pairs] for field in PAIRS]
    return pa.table(columns, schema=PAIRS)


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


def _located(run: EvaluationRun, pair_ids: Sequence[str]) -> dict[str, list[Located]]:
    """pair_id → its faces, in order, as far as the ledger knows them: they need not be looked for again."""
    if not pair_ids or run.detector is None:
        return {}
    columns = ["image_id", "face", "state", "detail", "stage_digest"]
    found: dict[str, list[Located]] = defaultdict(list)
    for event in events_of(run.ledger.latest(stage=FACES, image_ids=pair_ids, columns=columns)):
        if event.face >= 0 and event.stage_digest == run.digests[FACES]:  # others another detector has seen
            found[event.image_id].append(Located.from_detail(event.detail))
    return found


def _files_of(files: pa.Table, name: str) -> Iterator[FileRow]:
    """The inventory rows of one folder, paths relative to it."""
    for row in files_of(files.filter(pc.starts_with(files["path"], f"{name}/"))):
        yield replace(row, path=row.path[len(name) + 1 :])
