"""What is to be done, and how the books stand: the present inventory joined with the verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.ledger.schema import COMMIT, DELIVERED_STATES, INVENTORY, OPEN_STATES, LedgerError, bucket_sql
from infra.ledger.sql import Reader

if TYPE_CHECKING:
    import pyarrow as pa

WHYS = ("new", "changed", "unfinished", "stale", "retryable", "new_path", "missing")
"""Why an image is planned: never seen; its path held something else before; begun or sent back, not finished;
done under another digest; failed, with attempts left; done, but found at a further path since; done, but a file that
was delivered is gone, or of another size."""


@dataclass(frozen=True, slots=True)
class Books:
    """The balance in files: a duplicate counts as itself, files gone from the archive do not count."""

    found: int
    outcomes: dict[str, int]
    """Every outcome that occurs; `pending` for files whose image has no verdict yet."""
    reasons: dict[str, int]
    gone: int
    """Files that an earlier scan saw and the last one did not."""

    @property
    def balances(self) -> bool:
        return self.found == sum(self.outcomes.values())


def plan(reader: Reader, digest: str, max_attempts: int, lying: pa.Table | None) -> pa.Table:
    """One row per image to do, ordered by bucket and image_id.

    Columns: image_id, bucket, why (one of WHYS), attempt (of the last try, 0 before the first), files (paths that
    hold it), bytes and pixels (null where unknown) of one file. Files with a problem, gone files, and failures with
    `max_attempts` behind them are left out.

    lying: `path` and `lying_bytes` of every file that lies where results are delivered; None where nobody has looked.
    """
    import pyarrow as pa

    nothing = pa.table({"path": pa.array([], pa.string()), "lying_bytes": pa.array([], pa.int64())})
    reader.connection.register("lying", nothing if lying is None else lying)
    groups = reader.groups((INVENTORY, COMMIT))
    return pa.concat_tables(
        [reader.table(_plan_sql(reader, group), [digest, max_attempts, lying is not None, digest]) for group in groups]
    )


def books(reader: Reader, problems: Mapping[str, str], digest: str | None) -> Books:
    """Count present files by outcome and by reason.

    `problems` gives the outcome of a file that cannot be an input, by its inventory problem; a verdict under
    another digest than the given one counts as pending. Raises LedgerError for a problem that is not in `problems`.
    """
    presence, outcomes, reasons = Counter[bool](), Counter[str](), Counter[str]()
    for group in reader.groups((INVENTORY, COMMIT)):
        inventory = reader.inventory(group)
        presence.update(dict(reader.connection.execute(_PRESENCE.format(inventory=inventory)).fetchall()))
        sql = _BOOKS.format(inventory=inventory, commits=reader.commits(group), open=OPEN_STATES)
        for problem, outcome, reason, count in reader.connection.execute(sql, [digest]).fetchall():
            if problem is not None and problem not in problems:
                raise LedgerError(
                    f"problem {problem!r} in the inventory has no outcome: expected one of {sorted(problems)}"
                )
            outcomes[outcome if problem is None else problems[problem]] += count
            reasons[reason] += count
    return Books(presence[True], dict(outcomes), dict(reasons), presence[False])


def faces(reader: Reader) -> dict[str, int]:
    """Count faces by outcome, over the images that have a present file; a copy of a file brings no further faces."""
    counts = Counter[str]()
    for group in reader.groups((INVENTORY, COMMIT)):
        counts.update(reader.counts(_FACES.format(inventory=reader.inventory(group), commits=reader.commits(group))))
    return dict(counts)


def _plan_sql(reader: Reader, group: list[int]) -> str:
    return _PLAN.format(
        inventory=reader.inventory(group),
        commits=reader.commits(group),
        bucket=bucket_sql(reader.buckets),
        open=OPEN_STATES,
        delivered=DELIVERED_STATES,
    )


_PLAN = """
    WITH inputs AS (
        SELECT image_id, count(*)::INTEGER AS files, max(bytes) AS bytes, max(width::BIGINT * height) AS pixels,
               bool_or(earlier_image_id IS NOT NULL) AS changed, max(since_seq) AS since,
               count(lying.path) = count(*) AS all_lie, min(lying_bytes) AS smallest, max(lying_bytes) AS largest
        FROM ({inventory}) LEFT JOIN lying USING (path) WHERE present AND problem IS NULL GROUP BY image_id),
    verdicts AS (
        SELECT image_id, state, stage_digest, attempt, seq, output_sha256, output_bytes FROM ({commits})),
    judged AS (
        SELECT i.image_id,
            CASE
                WHEN v.image_id IS NULL THEN if(changed, 'changed', 'new')
                WHEN state IN {open} THEN if(state = 'superseded', 'stale', 'unfinished')
                WHEN stage_digest IS DISTINCT FROM ? THEN 'stale'
                WHEN state = 'failed_retryable' THEN if(attempt < ?, 'retryable', NULL)
                WHEN state NOT IN {delivered} THEN NULL
                WHEN since > seq THEN 'new_path'
                WHEN ? AND output_sha256 IS NOT NULL
                    AND NOT (all_lie AND coalesce(output_bytes = smallest AND output_bytes = largest, true))
                    THEN 'missing'
            END AS why,
            CASE WHEN state = 'failed_retryable' AND stage_digest IS NOT DISTINCT FROM ? THEN attempt ELSE 0
            END::SMALLINT AS attempt, files, bytes, pixels
        FROM inputs i LEFT JOIN verdicts v ON i.image_id = v.image_id)
    SELECT image_id, {bucket} AS bucket, * EXCLUDE (image_id) FROM judged
    WHERE why IS NOT NULL ORDER BY bucket, image_id"""

_PRESENCE = "SELECT present, count(*) FROM ({inventory}) GROUP BY 1"

_FACES = """
    WITH judged AS (
        SELECT unnest(map_entries((detail::JSON -> 'faces')::MAP(VARCHAR, BIGINT))) AS faces FROM ({commits})
        SEMI JOIN (SELECT image_id FROM ({inventory}) WHERE present) USING (image_id))
    SELECT faces.key, sum(faces.value)::BIGINT FROM judged GROUP BY 1"""

_BOOKS = """
    WITH verdicts AS (
        SELECT image_id, reason_code, outcome,
               state IN {open} OR coalesce(stage_digest <> ?, false) AS unfinished
        FROM ({commits}))
    SELECT problem,
           CASE WHEN problem IS NOT NULL OR v.image_id IS NULL OR unfinished THEN 'pending' ELSE outcome END,
           coalesce(problem, CASE WHEN v.image_id IS NULL OR unfinished THEN 'pending' ELSE reason_code END, 'unknown'),
           count(*)
    FROM ({inventory}) i LEFT JOIN verdicts v ON i.image_id = v.image_id
    WHERE present GROUP BY ALL"""
