"""`mpsr explain`: which input, stages, weights, scores and decisions made a file what it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.cli.questions.status import _ledger
from flows.jobs import JobError
from flows.session import digests_of_run, last_run_facts
from infra.storage import Storage, encode_name
from tasks.recipes import COMMIT

RESTORED = "restored"


def explain(file: str, workspace: str | None) -> dict[str, Any]:
    """Everything the ledger knows of one file. Raises JobError when it knows nothing."""
    storage, path = _locate(file, workspace)
    ledger = _ledger(storage)
    found = ledger.query("SELECT * FROM inventory WHERE path = ?", [path]).to_pylist()
    if not found:
        raise JobError(
            f"the ledger of {storage.shown_url} knows no file {path!r}; give its path relative to the archive"
        )
    file_row = found[0]
    every = ledger.latest(image_ids=[file_row["image_id"]]).to_pylist()
    verdict = next((_told(row) for row in every if row["stage"] == COMMIT), None)
    digests = _digests_behind(storage, verdict)
    rows = [row for row in every if row["stage_digest"] in digests or row["stage"] == COMMIT]
    runs = {row["run_id"] for row in rows}
    return {
        "schema": 1,
        "path": path,
        "input": {
            k: file_row[k] for k in ("image_id", "bytes", "format", "width", "height", "problem", "problem_text")
        },
        "verdict": verdict,
        "promotion": _promotion(verdict),
        "stages": [_told(row) for row in sorted(rows, key=_order(storage, rows)) if row["stage"] != COMMIT],
        "runs": {run_id: _run(storage, run_id) for run_id in sorted(runs)},
    }


def _locate(file: str, workspace: str | None) -> tuple[Storage, str]:
    """The workspace and the ledger's path of a restored file, or of a path relative to the archive."""
    if workspace is None:
        whole = Path(file).absolute()
        for parent in whole.parents:
            if parent.name == RESTORED and (parent.parent / "_format.json").is_file():
                return Storage(parent.parent), encode_name(whole.relative_to(parent).as_posix())
        raise JobError(f"{file} lies in no workspace's restored tree; give --workspace DIR and a path of the archive")
    storage = Storage(workspace)
    if storage.is_local and Path(file).absolute().is_relative_to(storage.local_path(RESTORED)):
        return storage, encode_name(Path(file).absolute().relative_to(storage.local_path(RESTORED)).as_posix())
    return storage, encode_name(file.removeprefix(f"{RESTORED}/"))


def _digests_behind(storage: Storage, verdict: dict[str, Any] | None) -> set[str]:
    """The stages' digests of the run that made what a verdict is about, which may be older than the verdict."""
    made_in = verdict and digests_of_run(storage, verdict["detail"].get("made_in", verdict["run_id"]))
    return set((made_in or last_run_facts(storage)["digests"]).values())


def _promotion(verdict: dict[str, Any] | None) -> dict[str, Any] | None:
    """What the nightly gate did with a file, in which promotion and why; None where it never came into it."""
    detail = verdict["detail"] if verdict else {}
    if "promotion" not in detail:
        return None
    marks = ("rolled_back", "promoted", "kept", "taken")
    did = next((mark.replace("_", " ") for mark in marks if detail.get(mark)), "original")
    return {"id": detail["promotion"], "did": did, "why": detail.get("why"), "made_in": detail.get("made_in")}


def _told(row: dict[str, Any]) -> dict[str, Any]:
    names = ("stage", "face", "state", "reason_code", "reason", "stage_key", "run_id", "worker", "attempt", "device_ms")
    told = {name: row[name] for name in names}
    told |= {"metrics": dict(row["metrics"] or {}), "detail": json.loads(row["detail"] or "{}")}
    return told | {"output": row["output_uri"], "output_sha256": row["output_sha256"], "finished": row["finished"]}


def _order(storage: Storage, rows: list[dict[str, Any]]) -> Callable[[dict[str, Any]], tuple[int, int]]:
    facts = _run(storage, rows[0]["run_id"]) if rows else {}
    places = {stage["id"]: n for n, stage in enumerate(facts.get("recipe", {}).get("stage", []))}
    return lambda row: (places.get(row["stage"], len(places)), row["face"])


def _run(storage: Storage, run_id: str) -> dict[str, Any]:
    path = f"runs/{run_id}.json"
    facts: dict[str, Any] = json.loads(storage.read_bytes(path)) if storage.exists(path) else {}
    return {k: facts[k] for k in ("recipe", "weights", "software", "device", "host", "started") if k in facts}
