"""The closed list of reasons, and how faces add up to the outcome of a file.

The books balance in files: found = restored + fallback + left_alone + rejected_identity + skipped + failed +
quarantined + pending.
What a verdict says beside its state is one record, `VerdictDetail`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from pydantic import JsonValue, TypeAdapter

FileOutcome = Literal[
    "restored", "fallback", "left_alone", "rejected_identity", "skipped", "failed", "quarantined", "pending"
]
OUTCOMES: tuple[FileOutcome, ...] = get_args(FileOutcome)

PRECEDENCE: tuple[FileOutcome, ...] = (
    "quarantined",
    "failed",
    "pending",
    "restored",
    "fallback",
    "rejected_identity",
    "left_alone",
    "skipped",
)
"""A file with several faces takes the first of these that applies to any of them."""

REASONS: dict[str, tuple[FileOutcome, str]] = {
    "ok": ("restored", "restored"),
    "scored": ("restored", "scored only; the picture is another stage's business"),
    "gate_not_met": ("restored", "a conditional stage did not apply to this face"),
    "fallback_blend": ("fallback", "blended with the input until it was the same person"),
    "fallback_earlier": ("fallback", "an earlier stage's result was kept, being the same person"),
    "no_face": ("left_alone", "no face was found"),
    "sharp_enough": ("left_alone", "the face is already good"),
    "face_too_small": ("left_alone", "every face is smaller than the recipe restores"),
    "nothing_changed": ("left_alone", "the recipe changed no pixel"),
    "below_floor": ("left_alone", "the result was below the floors of the nightly gate; the original stays"),
    "identity_lost": ("rejected_identity", "no result of any stage was the same person; the original stays"),
    "undecidable": ("rejected_identity", "identity could not be judged and the settings ask for proof"),
    "not_an_image": ("skipped", "the content is not a picture"),
    "sidecar": ("skipped", "what a camera or program keeps beside a picture (.xmp, .aae, …); it stays in the archive"),
    "empty_file": ("skipped", "zero bytes"),
    "unsupported_format": ("skipped", "a picture of a kind that this installation cannot decode"),
    "animated": ("skipped", "an animation"),
    "multi_page": ("skipped", "several pages in one file"),
    "excluded": ("skipped", "excluded by the run's include and exclude patterns"),
    "symlink_loop": ("skipped", "a symbolic link that leads back to itself, or into the workspace"),
    "broken_link": ("skipped", "a symbolic link that leads nowhere"),
    "too_small": ("left_alone", "too few pixels to hold a face"),
    "too_large": ("quarantined", "more pixels than the limit for decoding"),
    "corrupt": ("quarantined", "the picture is broken and could not be decoded"),
    "killed_worker": ("quarantined", "this picture kills the process that works on it"),
    "stage_error": ("quarantined", "a stage could not work on it"),
    "unreadable": ("failed", "the file could not be read"),
    "changed_while_running": ("failed", "the file changed while it was being worked on"),
    "disappeared": ("failed", "the file was there at the scan and is gone"),
    "out_of_memory": ("failed", "memory ran out even for this one alone"),
    "too_slow": ("failed", "no answer in time, though alone: raise call_timeout, or compute on a faster device"),
    "infrastructure": ("failed", "the machinery failed more often than the retries allow"),
    "write_failed": ("quarantined", "the restored picture could not be coded in its container"),
    "pending": ("pending", "not reached yet"),
}
"""reason_code → (what it makes of a file, the sentence that the documentation gives it)."""

_STATES: dict[str, FileOutcome] = {
    "done": "restored",
    "done_fallback": "fallback",
    "rejected_identity": "rejected_identity",
    "skipped": "left_alone",
    "failed_retryable": "failed",
    "quarantined": "quarantined",
}


def outcome_of(state: str, reason_code: str) -> FileOutcome:
    """What one face's (or image's) last state means for its file."""
    if reason_code in REASONS and reason_code not in ("ok", "scored", "gate_not_met"):
        return REASONS[reason_code][0]
    return _STATES.get(state, "pending")


def file_outcome(outcomes: Iterable[FileOutcome]) -> FileOutcome:
    """The first of PRECEDENCE that applies to any face; `left_alone` for a picture without faces."""
    found = set(outcomes)
    return next((o for o in PRECEDENCE if o in found), "left_alone")


def balance(outcomes: Iterable[FileOutcome]) -> dict[str, int]:
    """Counts per outcome with every key present, in the order that the report prints them."""
    counts = Counter(outcomes)
    return {outcome: counts[outcome] for outcome in OUTCOMES}


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictDetail:
    """What the verdict on an image says beside its state: the `detail` of a commit event.

    outcome: of the image's files; None where a verdict is only set aside. faces: outcome → number of faces.
    made_in: id of the run that made the result, where another wrote the verdict. The nightly gate says in which
    `promotion` and why (`why`) a result was `promoted` in place of an older one, `taken` because there was none, or
    `rolled_back` to the older one. kept: the older result stands under the digest of a later recipe; made_by: the
    digest of the recipe that made it.
    """

    outcome: FileOutcome | None = None
    faces: Mapping[FileOutcome, int] = field(default_factory=dict)
    promotion: str | None = None
    why: str | None = None
    promoted: bool = False
    taken: bool = False
    rolled_back: bool = False
    kept: bool = False
    made_by: str | None = None
    made_in: str | None = None

    @classmethod
    def from_detail(cls, detail: Mapping[str, JsonValue]) -> VerdictDetail:
        """Reads the detail of an event; raises pydantic.ValidationError for one that no version wrote."""
        return _VERDICT_DETAIL.validate_python(detail)

    def to_detail(self) -> dict[str, JsonValue]:
        """The detail of an event, without what does not apply; outcome and faces always stand in it."""
        said: dict[str, JsonValue] = _VERDICT_DETAIL.dump_python(self, exclude_defaults=True)
        return {"outcome": self.outcome, "faces": {}} | said


_VERDICT_DETAIL = TypeAdapter(VerdictDetail)
