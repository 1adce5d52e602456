"""What a side of a comparison cost: seconds of its stages and of its run, from ledger and run files."""

from __future__ import annotations

from dataclasses import dataclass

from flows.jobs import Side, open_evaluation
from flows.restoration import face_counts
from flows.session import facts_of_every_run, last_run_facts
from infra.ledger import Ledger
from infra.storage import Storage, decode_name
from tasks.comparing import Effort
from tasks.measuring import Evaluation
from tasks.recipes import COMMIT

_SECONDS = """
    SELECT stage, sum(device_ms) / 1000 AS seconds FROM latest
    WHERE list_contains(?, stage_digest) GROUP BY stage ORDER BY stage"""


@dataclass(frozen=True)
class Measured:
    """A side with its evaluation. tree: address of its restored pictures."""

    side: Side
    evaluation: Evaluation
    tree: str


def measured_before(side: Side) -> Measured:
    """The side that is an evaluation folder. Raises JobError where it cannot be read."""
    evaluation = open_evaluation(side.url)
    return Measured(side, evaluation, decode_name(evaluation.facts.restored))


def effort_facts(measured: Measured, price_per_gpu_hour: float | None) -> Effort | None:
    """What a workspace's restored pictures took; None for what is only a folder."""
    url = measured.evaluation.facts.workspace
    if not url or measured.side.kind == "originals":
        return None
    storage = Storage(decode_name(url))
    facts = last_run_facts(storage)
    digests = facts.digests
    ledger = Ledger.open(storage, create=False)
    stages = ledger.query(_SECONDS, [[digest for name, digest in digests.items() if name != COMMIT]])
    spent = dict(zip(stages["stage"].to_pylist(), stages["seconds"].to_pylist(), strict=True))
    seconds = sum(spent.values())
    return Effort(
        recipe=facts.recipe.name,
        device=facts.device,
        pictures=ledger.query("SELECT count(*) AS n FROM commits")["n"][0].as_py(),
        faces=face_counts(ledger)["found"],
        stages=spent,
        seconds=seconds,
        wall_seconds=_wall_seconds(storage, digests[COMMIT]),
        price_per_gpu_hour=price_per_gpu_hour,
        cost=None if price_per_gpu_hour is None else seconds / 3600 * price_per_gpu_hour,
    )


def _wall_seconds(storage: Storage, digest: str) -> float | None:
    """Of all runs under that recipe; None where one did not finish."""
    wanted = [run for run in facts_of_every_run(storage) if run.digests.get(COMMIT) == digest]
    walls = [run.summary.seconds for run in wanted if run.summary and run.summary.seconds is not None]
    return sum(walls) if len(walls) == len(wanted) else None
