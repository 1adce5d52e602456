"""`mpsr explain`: which input, stages, weights, scores and decisions made a file what it is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

from pydantic import Field, JsonValue

from flows.jobs import JobError, workspace_at
from flows.session import RanRecipe, RunFacts, digests_of_run, facts_of_run, last_run_facts
from infra.facts import Facts, Record
from infra.ledger import Event, FileRow, Ledger, events_of, files_of
from infra.storage import Storage, encode_name
from tasks.archive import VerdictDetail
from tasks.recipes import COMMIT

RESTORED = "restored"


class Given(Record):
    """What a scan saw of the input. image_id: sha256 of its bytes. width, height: pixels as stored."""

    image_id: str
    bytes: int | None
    format: str | None
    width: int | None
    height: int | None
    problem: str | None
    problem_text: str | None


class Step(Record):
    """What became of one face (or the picture, face −1) at one stage.

    stage: its name in the recipe. network: what worked there, as the table of stages calls it ("" where no run says).
    """

    stage: str
    network: str = ""
    face: int
    state: str
    reason_code: str | None
    reason: str | None
    stage_key: str | None
    run_id: str
    worker: str | None
    attempt: int
    device_ms: float | None
    metrics: dict[str, float]
    detail: dict[str, JsonValue]
    output: str | None = Field(validation_alias="output_uri")
    output_sha256: str | None
    finished: datetime | None


class Gated(Record):
    """What the nightly gate did with a file, in which promotion and why."""

    id: str
    did: str
    why: str | None
    made_in: str | None


class Ran(Record):
    """A run that had a part in a file; empty where it wrote nothing down about itself."""

    recipe: RanRecipe
    weights: dict[str, str]
    software: str
    device: str
    host: str
    started: str


class Explanation(Facts):
    """Everything the ledger knows of one file. promotion: None where it never came into the nightly gate."""

    path: str
    input: Given
    verdict: Step | None
    promotion: Gated | None
    stages: list[Step]
    runs: dict[str, Ran]


def explain(file: str, workspace: str | None) -> Explanation:
    """Everything the ledger knows of one file. Raises JobError when it knows nothing."""
    storage, path = _locate(file, workspace)
    ledger = Ledger.open(storage, create=False)
    found = _row(ledger, path, Path(file))
    if found is None:
        raise JobError(
            f"the ledger of {storage.shown_url} knows neither a file {path!r} nor its content; give its path relative "
            "to the archive, or an original or result as it was"
        )
    every = list(events_of(ledger.latest(image_ids=[found.image_id])))
    verdict = next((event for event in every if event.stage == COMMIT), None)
    digests = _digests_behind(storage, verdict)
    events = [event for event in every if event.stage_digest in digests and event.stage != COMMIT]
    run_ids = sorted({event.run_id for event in (*events, *([verdict] if verdict else []))})
    runs = {run_id: facts_of_run(storage, run_id) or RunFacts() for run_id in run_ids}
    networks = _networks(runs)
    return Explanation(
        path=found.path,
        input=Given.model_validate(found, from_attributes=True),
        verdict=_step(verdict) if verdict else None,
        promotion=_gated(VerdictDetail.from_detail(verdict.detail)) if verdict else None,
        stages=[_step(event, networks.get((event.run_id, event.stage), "")) for event in _in_order(events, runs)],
        runs={run_id: Ran.model_validate(facts, from_attributes=True) for run_id, facts in runs.items()},
    )


def _row(ledger: Ledger, path: str, file: Path) -> FileRow | None:
    """By its path; else by its content, wherever the file was moved: an original's, or a result's."""
    by_path = "SELECT * FROM inventory WHERE path = ?"
    found = next(files_of(ledger.query(by_path, [path])), None)
    if found is not None or not file.is_file():
        return found
    with file.open("rb") as stream:
        content = hashlib.file_digest(stream, "sha256").hexdigest()
    of_results = "SELECT image_id FROM commits WHERE output_sha256 = ?"
    by_content = f"SELECT * FROM inventory WHERE image_id = ? OR image_id IN ({of_results}) ORDER BY NOT present, path"
    return next(files_of(ledger.query(by_content, [content, content])), None)


def _networks(runs: Mapping[str, RunFacts]) -> dict[tuple[str, str], str]:
    """(run, stage) → the name in the table of stages of what worked there."""
    return {(run_id, stage.id): stage.implementation for run_id, run in runs.items() for stage in run.recipe.stage}


def _locate(file: str, workspace: str | None) -> tuple[Storage, str]:
    """The workspace and the ledger's path of a restored file, or of a path relative to the archive."""
    if workspace is None:
        whole = Path(file).absolute()
        for parent in whole.parents:
            if parent.name == RESTORED and (parent.parent / "_format.json").is_file():
                return Storage(parent.parent), encode_name(whole.relative_to(parent).as_posix())
        raise JobError(f"{file} lies in no workspace's restored tree; give --workspace DIR and a path of the archive")
    storage = workspace_at(workspace)
    if storage.is_local and Path(file).absolute().is_relative_to(storage.local_path(RESTORED)):
        return storage, encode_name(Path(file).absolute().relative_to(storage.local_path(RESTORED)).as_posix())
    return storage, encode_name(file.removeprefix(f"{RESTORED}/"))


def _digests_behind(storage: Storage, verdict: Event | None) -> set[str]:
    """The stages' digests of the run that made what a verdict is about, which may be older than the verdict."""
    made_in = verdict and digests_of_run(storage, VerdictDetail.from_detail(verdict.detail).made_in or verdict.run_id)
    return set((made_in or last_run_facts(storage).digests).values())


def _gated(detail: VerdictDetail) -> Gated | None:
    if detail.promotion is None:
        return None
    marks = ("rolled_back", "promoted", "kept", "taken")
    did = next((mark.replace("_", " ") for mark in marks if getattr(detail, mark)), "original")
    return Gated(id=detail.promotion, did=did, why=detail.why, made_in=detail.made_in)


def _step(event: Event, network: str = "") -> Step:
    return Step.model_validate(event, from_attributes=True).model_copy(update={"network": network})


def _in_order(events: Iterable[Event], runs: Mapping[str, RunFacts]) -> list[Event]:
    """In the order of the recipe's stages."""
    places = {stage.id: n for run in runs.values() for n, stage in enumerate(run.recipe.stage)}
    return sorted(events, key=lambda event: (places.get(event.stage, len(places)), event.face))
