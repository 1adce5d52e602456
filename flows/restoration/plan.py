"""Planning: what the ledger says is to be done, cut into shards.

A shard is a pure function of its images' ids and of the size of the archive, never of what happens to be pending:
a resumed run meets the same shards and finds their intermediates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

from flows.jobs import JobError
from flows.restoration.delivered import lying
from flows.restoration.shard import Planned, Shard
from flows.session import prefix_bits, prefix_of
from infra.ledger import COMMIT, Ledger, bucket_of, events_of
from infra.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa

    from flows.restoration.run import Run


OUTPUT_PER_INPUT = 1.3
"""Bytes of restored files per byte of input, with room to spare."""


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

    @property
    def output_bytes(self) -> int:
        """What the restored files will take, about: every path that holds a picture gets its result."""
        import pyarrow.compute as pc

        given = pc.sum(pc.multiply(pc.fill_null(self.table["bytes"], 0), self.table["files"])).as_py()
        return int(OUTPUT_PER_INPUT * (given or 0))

    def shards(self, run: Run) -> Iterator[Shard]:
        """The work, shard by shard, in the order of the ids (a hash, so the folders of an archive come mixed)."""
        for bucket, rows in self.by_bucket("image_id", "why", "attempt"):
            paths = run.patience.with_(partial(paths_by_image, run.ledger, bucket))
            for prefix, members in groupby(rows, key=lambda row: prefix_of(row[0], self.prefix_bits)):
                images = {image_id: Planned(paths[image_id], why, attempt) for image_id, why, attempt in members}
                yield Shard(f"{bucket:02x}-{prefix:x}", bucket, images, run.recipe, run.digests)

    def by_bucket(self, *columns: str) -> Iterator[tuple[int, list[tuple[Any, ...]]]]:
        """One bucket's rows (as tuples) at a time: ten million as Python objects would not fit."""
        table, start = self.table.select(columns), 0
        for counted in self.table.column("bucket").value_counts().to_pylist():
            rows = table.slice(start, counted["counts"])
            yield counted["values"], list(zip(*(column.to_pylist() for column in rows.columns), strict=True))
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
    return plan_of(run.ledger, run.digests[COMMIT], run.settings)


def plan_of(ledger: Ledger, digest: str | None, settings: Settings) -> Plan:
    """What a run under the recipe's digest would do, by what the ledger knows.

    Without a digest (for want of weights nobody can tell it) what another recipe has done is left out.
    """
    import pyarrow.compute as pc

    table = ledger.plan(digest or "", lying=lying(ledger.storage))
    if digest is None:
        table = table.filter(pc.not_equal(table["why"], "stale"))
    present = ledger.query("SELECT count(*) AS n FROM inventory WHERE present").column("n")[0].as_py()
    history = any(stage != COMMIT for stage in ledger.holdings().stages)
    return Plan(table, _counts(table), prefix_bits(present, settings), history)


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
        "SELECT image_id, face, stage, stage_key, stage_digest, 'pending' AS state FROM latest "
        "WHERE state = 'quarantined' OR (state = 'failed_retryable' AND stage = ?) ORDER BY stage, image_id",
        [COMMIT],
    )
    for (stage, bucket), members in groupby(
        events_of(given_up), key=lambda event: (event.stage, bucket_of(event.image_id, run.ledger.buckets))
    ):
        run.session.record(bucket, stage, list(members))


def _counts(table: pa.Table) -> dict[str, int]:
    grouped = table.group_by("why").aggregate([("image_id", "count")])
    return {row["why"]: row["image_id_count"] for row in grouped.to_pylist()}


def paths_by_image(ledger: Ledger, bucket: int) -> dict[str, tuple[str, ...]]:
    """image_id → every path that holds it, in one bucket."""
    table = ledger.files(bucket=bucket, columns=["image_id", "path"])
    found: dict[str, list[str]] = {}
    for image_id, path in zip(table.column("image_id").to_pylist(), table.column("path").to_pylist(), strict=True):
        found.setdefault(image_id, []).append(path)
    return {image_id: tuple(paths) for image_id, paths in found.items()}
