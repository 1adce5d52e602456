"""What a report of a run says, as plain records: totals, distributions, what is shown, files.

Everything here is bounded or counted, whatever the size of the archive; it knows nothing of pixels or pages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from infra.facts import Facts
from infra.ledger import Books, FileRow
from tasks.archive import OUTCOMES, FileOutcome
from tasks.pages.shared.distributions import Distribution
from tasks.pages.shared.measures import Measure
from tasks.pages.shared.records import FaceRecord, RunFacts, StageTotal

EVERYTHING = "everything"
"""`chosen` of every picture where all of them are shown."""

TROUBLES: tuple[FileOutcome, ...] = ("failed", "quarantined", "rejected_identity")
"""Outcomes that a person should look at; the first two make a run's exit code 1."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Images that are worth showing: of the gallery why each is in it, and rankings with the foremost first.

    The rankings are `slowest`, `lost_most` (by the measure), `least_alike` (by identity) and `most_changed`.
    """

    gallery: Mapping[str, str]
    rankings: Mapping[str, tuple[str, ...]]

    @property
    def images(self) -> set[str]:
        """Ids of all of them."""
        return {*self.gallery, *(image_id for order in self.rankings.values() for image_id in order)}


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file of the archive and what became of it.

    `before`, `after` are means over its faces of the report's first measure, `gain` is their difference, `identity` is
    the lowest of its faces, `seconds` its device time, `change` the mean of theirs, `faces` their number; None means
    not measured. `chosen` says why it is in the gallery (empty: it is not). `details` are its faces step by step.
    """

    file: FileRow
    outcome: FileOutcome
    reason_code: str
    reason: str = ""
    faces: int | None = None
    before: float | None = None
    after: float | None = None
    identity: float | None = None
    seconds: float | None = None
    change: float | None = None
    chosen: str = ""
    details: tuple[FaceRecord, ...] = ()

    @property
    def gain(self) -> float | None:
        """After minus before; None where either was not measured."""
        return None if self.before is None or self.after is None else self.after - self.before


@dataclass(frozen=True, slots=True)
class ReportData:
    """All that a report shows but its files. `books` count files, `faces` faces by outcome.

    `measure` is the one that `before` and `after` of a file speak of; `judge` and `change` are the metrics of its
    `identity` and its `change`.
    """

    facts: RunFacts
    books: Books
    faces: Mapping[str, int]
    measure: Measure | None
    judge: str | None
    change: str | None
    distributions: tuple[Distribution, ...]
    stages: tuple[StageTotal, ...]
    choice: Choice

    @property
    def outcomes(self) -> dict[FileOutcome, int]:
        """Files by outcome, every outcome among them."""
        return {outcome: self.books.outcomes.get(outcome, 0) for outcome in OUTCOMES}

    @property
    def reasons(self) -> dict[str, int]:
        """Files by reason, the most frequent first."""
        return dict(sorted(self.books.reasons.items(), key=lambda reason: -reason[1]))

    @property
    def troubles(self) -> int:
        """Files that a person should look at."""
        return sum(self.books.outcomes.get(outcome, 0) for outcome in TROUBLES)


@dataclass(frozen=True, slots=True)
class Trouble:
    """A file that a person should look at, as report.json tells it."""

    path: str
    outcome: FileOutcome
    reason_code: str
    reason: str
    image_id: str


class ReportFile(Facts):
    """report.json, for programs: totals as `mpsr run --json` prints them, then facts, scores, stages, troubles.

    `rankings` holds paths, `troubles` those that the page lists.
    """

    run_id: str
    found: int
    outcomes: Mapping[FileOutcome, int]
    reasons: Mapping[str, int]
    faces: Mapping[str, int]
    seconds: float | None
    gone: int
    facts: RunFacts
    stages: tuple[StageTotal, ...]
    distributions: tuple[Distribution, ...]
    rankings: Mapping[str, tuple[str, ...]]
    troubles: tuple[Trouble, ...]
