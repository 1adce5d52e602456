"""From what workers say of pairs and faces to rows of the ledger. Pure: no storage, no Prefect."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tasks.measuring import FACES, FID, Row
from tasks.stage import WHOLE_IMAGE

if TYPE_CHECKING:
    from infra.workers import Failure

_SAME = ("image_id", "face", "state", "reason_code", "reason", "worker")


def events_of(row: Row, lacking: Collection[str], digests: Mapping[str, str]) -> Iterator[Row]:
    """The ledger's rows for one row of a worker: where the face lies, and one per metric, of the stages lacking."""
    if FACES in lacking:
        detail = json.dumps(row["detail"]) if row.get("detail") else None
        yield _event(row, FACES, digests, detail=detail)
    if row["face"] != WHOLE_IMAGE:
        for metric in row["metrics"]:
            yield _event(row, metric, digests, **_said(row, metric))
    elif row["state"] != "done":
        for metric in lacking:
            if metric != FACES:
                yield _event(row, metric, digests)


def given_up(failure: Failure) -> Row:
    """The row of a pair that no worker could finish; another evaluation, perhaps of other metrics, tries it again."""
    now = datetime.now(UTC).isoformat()
    said = {"state": "failed_retryable", "reason_code": failure.reason_code, "reason": failure.reason}
    return {"image_id": failure.item["key"], "face": WHOLE_IMAGE, "started": now, "finished": now, **said}


def _said(row: Row, metric: str) -> Row:
    """What is particular to one metric of a face."""
    took = {"device_ms": row["milliseconds"].get(metric)}
    if metric in row["failed"]:
        reason = row["failed"][metric]
        return took | {"state": "quarantined", "reason_code": "measure_failed", "reason": reason}
    if metric == FID:
        return took | {"output_uri": row["output_uri"]}
    return took | {"metrics": {metric: row["values"][metric]}}


def _event(row: Row, stage: str, digests: Mapping[str, str], **more: Any) -> Row:
    digest = digests[stage]
    key = hashlib.sha256(f"{row['image_id']}:{row['face']}:{digest}".encode()).hexdigest()
    times = {name: datetime.fromisoformat(row[name]) for name in ("started", "finished")}
    same = {name: row.get(name) for name in _SAME}
    return {**same, **times, "stage": stage, "stage_key": key, "stage_digest": digest, **more}
