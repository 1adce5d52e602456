"""What a side of a comparison cost: seconds of its stages and of its run, from ledger and run files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from flows.jobs import Side, open_evaluation
from flows.restoration import face_counts
from flows.session import last_run_facts
from infra.ledger import Ledger
from infra.storage import Storage, decode_name
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
    return Measured(side, evaluation, decode_name(evaluation.facts["restored"]))


def effort_facts(measured: Measured, price_per_gpu_hour: float | None) -> dict[str, Any] | None:
    """What a workspace's restored pictures took; None for what is only a folder.

    stages: seconds inside each, added over workers, of the results that were kept. wall_seconds: of the runs, by the
    clock; None where one did not finish. cost: `seconds` at the price.
    """
    url = measured.evaluation.facts.get("workspace")
    if not url or measured.side.kind == "originals":
        return None
    storage = Storage(decode_name(url))
    facts = last_run_facts(storage)
    digests = facts["digests"]
    ledger = Ledger.open(storage, create=False)
    stages = ledger.query(_SECONDS, [[digest for name, digest in digests.items() if name != COMMIT]])
    seconds = {row["stage"]: row["seconds"] for row in stages.to_pylist()}
    return {
        "recipe": facts["recipe"]["name"],
        "device": facts["device"],
        "pictures": ledger.query("SELECT count(*) AS n FROM commits").column("n")[0].as_py(),
        "faces": face_counts(ledger)["found"],
        "stages": seconds,
        "seconds": sum(seconds.values()),
        "wall_seconds": _wall_seconds(storage, digests[COMMIT]),
        "price_per_gpu_hour": price_per_gpu_hour,
        "cost": None if price_per_gpu_hour is None else sum(seconds.values()) / 3600 * price_per_gpu_hour,
    }


def _wall_seconds(storage: Storage, digest: str) -> float | None:
    """Of all runs under that recipe; None where one did not finish."""
    paths = [info.path for info in storage.walk("runs") if info.path.endswith(".json")]
    runs = [json.loads(storage.read_bytes(path)) for path in paths]
    wanted = [run for run in runs if run["digests"].get(COMMIT) == digest]
    walls = [run["summary"]["seconds"] for run in wanted if run.get("finished")]
    return sum(walls) if len(walls) == len(wanted) else None
