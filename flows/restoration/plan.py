"""Planning: what the ledger says is to be done, cut into shards.

A shard is a pure function of its images' ids and of the size of the archive, never of what happens to be pending:
a resumed run meets the same shards and finds their intermediates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from flows.jobs import JobError
from flows.restoration.shard import Shard
from flows.session import prefix_bits, prefix_of
from infra.ledger import Ledger, bucket_of
from tasks.recipes import COMMIT

if TYPE_CHECKING:
    import pyarrow as pa

    from flows.restoration.run import Run


@dataclass(frozen=True)
class Plan:
    """What a run has to do. `table` has one row per image, ordered by bucket and image_id."""

    table: pa.Table
    counts: Mapping[str, int]
    prefix_bits: int
    has_history: bool

    @property
    def images(self) -> int:
        """How many images are to be done."""
        return int(self.table.num_rows)

    def shards(self, run: Run) -> Iterator[Shard]:
        """The work, shard by shard, in the order of the ids (a hash, so the folders of an archive come mixed)."""
        for bucket, rows in self.by_bucket("image_id", "bucket", "why", "attempt"):
            paths = run.patience.with_(partial(paths_by_image, run.ledger, bucket))
            for prefix, members in groupby(rows, key=lambda row: prefix_of(row["image_id"], self.prefix_bits)):
                planned = {row["image_id"]: row for row in members}
                images = {image_id: paths[image_id] for image_id in planned}
                yield Shard(f"{bucket:02x}-{prefix:x}", bucket, images, run.recipe, run.digests, planned)

    def by_bucket(self, *columns: str) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """One bucket's rows at a time: ten million as Python objects would not fit."""
        table, start = self.table.select(columns), 0
        for counted in self.table.column("bucket").value_counts().to_pylist():
            yield counted["values"], table.slice(start, counted["counts"]).to_pylist()
            start += counted["counts"]


def make_plan(run: Run) -> Plan:
    """Asks the ledger what is to be done under the run's recipe; with `retry`, also what was given up."""
    if _ignores_case(run) and (met := collisions(run.ledger)):
        raise JobError(
            f"the workspace's file system ignores case, and {' and '.join(met[0])} would meet in the restored tree "
            f"({len(met)} such names); choose a workspace that tells them apart, or exclude one of each"
        )
    if run.job.retry:
        _reopen(run)
    table = run.ledger.plan(run.digests[COMMIT])
    present = run.ledger.query("SELECT count(*) AS n FROM inventory WHERE present").column("n")[0].as_py()
    bits = prefix_bits(present, run.settings)
    history = any(stage != COMMIT for stage in run.ledger.holdings().stages)
    return Plan(table, _counts(table), bits, history)


def collisions(ledger: Ledger) -> list[list[str]]:
    """Paths that differ in case or in Unicode's composition only, together; at most a hundred groups."""
    sql = """
        SELECT list(path ORDER BY path) AS paths FROM inventory WHERE present AND problem IS NULL
        GROUP BY lower(nfc_normalize(path)) HAVING count(*) > 1 ORDER BY 1 LIMIT 100"""
    return [row["paths"] for row in ledger.query(sql).to_pylist()]


def _ignores_case(run: Run) -> bool:
    """Whether the run's own file is found under a name in the other case."""
    return run.workspace.is_local and run.workspace.exists(f"runs/{run.id.swapcase()}.json")


def _reopen(run: Run) -> None:
    """Sends what was given up back to pending: the plan takes it on, and the ledger says that somebody asked."""
    given_up = run.ledger.query(
        "SELECT image_id, face, stage, stage_key, stage_digest, state FROM latest "
        "WHERE state = 'quarantined' OR (state = 'failed_retryable' AND stage = ?) ORDER BY stage, image_id",
        [COMMIT],
    ).to_pylist()
    place = itemgetter("stage", "bucket")
    rows = [{**row, "bucket": bucket_of(row["image_id"], run.ledger.buckets), "state": "pending"} for row in given_up]
    for (stage, bucket), members in groupby(sorted(rows, key=place), key=place):
        reopened = [{name: row[name] for name in row if name != "bucket"} for row in members]
        run.ledger.append_events(reopened, run_id=run.id, token=run.lease.token, stage=stage, bucket=bucket)


def _counts(table: pa.Table) -> dict[str, int]:
    grouped = table.group_by("why").aggregate([("image_id", "count")])
    return {row["why"]: row["image_id_count"] for row in grouped.to_pylist()}


def paths_by_image(ledger: Ledger, bucket: int) -> dict[str, list[str]]:
    """image_id → every path that holds it, in one bucket."""
    table = ledger.files(bucket=bucket, columns=["image_id", "path"])
    found: dict[str, list[str]] = {}
    for image_id, path in zip(table.column("image_id").to_pylist(), table.column("path").to_pylist(), strict=True):
        found.setdefault(image_id, []).append(path)
    return found
