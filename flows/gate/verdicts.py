"""Verdicts that the gate writes into the ledger: what stands of a picture, whose result it is, and why.

Pure records; files and ledgers are `flows.gate.moves`' business.
"""

from __future__ import annotations

from dataclasses import replace

from infra.ledger import COMMIT, Event
from tasks.archive import VerdictDetail
from tasks.recipes import stage_key
from tasks.stage import WHOLE_IMAGE


def said_of(verdict: Event | None) -> VerdictDetail:
    """What a verdict says beside its state; nothing where there is none."""
    return VerdictDetail.from_detail(verdict.detail) if verdict else VerdictDetail()


def made_in(verdict: Event) -> str:
    """The run that made the result of a verdict."""
    return said_of(verdict).made_in or verdict.run_id


def unmarked(old: Event) -> VerdictDetail:
    """What an older verdict says, without what the gate had done to its result; the run that made it stays named."""
    return replace(said_of(old), promoted=False, taken=False, rolled_back=False, made_in=made_in(old))


def kept_verdict(old: Event, digest: str | None, said: VerdictDetail) -> Event:
    """The older verdict once more, under another digest so that no plan takes the picture on (None: under its own)."""
    if digest is not None:
        said = replace(said, kept=True, made_by=said.made_by or old.stage_digest)
    digest = digest or str(old.stage_digest)
    return Event(
        image_id=old.image_id,
        stage=COMMIT,
        stage_key=stage_key(old.image_id, WHOLE_IMAGE, digest),
        stage_digest=digest,
        state=old.state,
        attempt=old.attempt,
        reason_code=old.reason_code,
        reason=old.reason,
        outcome=old.outcome,
        detail=said.to_detail(),
        output_uri=old.output_uri,
        output_sha256=old.output_sha256,
        output_bytes=old.output_bytes,
    )


def original_verdict(new: Event, said: VerdictDetail) -> Event:
    """That the original lies in the restored tree, the new result being below the floors."""
    faces = sum(said_of(new).faces.values())
    detail = replace(said, outcome="left_alone", faces={"left_alone": faces} if faces else {})
    return replace(
        new,
        state="done",
        reason_code="below_floor",
        reason=said.why,
        outcome="left_alone",
        detail=detail.to_detail(),
        output_sha256=new.image_id,
        output_bytes=None,
    )
