"""What a comparison says, as a document for people: the numbers, who changed, what it took, the worst regressions.

It gets numbers and names and gives blocks of `document`; it reads and writes no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import floor, log10

from tasks.comparing import (
    ComparisonFacts,
    Difference,
    Effort,
    IdentityChange,
    Letter,
    Names,
    Regression,
    SideFacts,
    pictures_needed,
)
from tasks.measuring import meaning_of
from tasks.pages.documents.document import Block, Figure, Heading, Paragraph, Table
from tasks.pages.shared.words import duration, number

LISTED = 20
"""Names in a list before the rest is only counted; comparison.parquet has all."""
METRICS_HEAD = ("metric", "A", "B", "gain", "interval", "won : lost : tied", "verdict on B")
IDENTITY_HEAD = ("identity", "threshold", "fails in A", "fails in B", "lost", "regained")
EFFORT_HEAD = ("side", "pictures", "faces", "time in stages", "each picture", "of the runs", "cost")


def comparison_blocks(found: ComparisonFacts) -> list[Block]:
    """The whole document."""
    return [
        *_opening(found),
        Table(METRICS_HEAD, [metric_cells(each) for each in found.differences]),
        *_whole_sets(found),
        *_identity(found),
        *_effort(found),
        *_worst(found),
        *_left_out(found),
    ]


def metric_cells(d: Difference) -> tuple[str, ...]:
    """A metric's row under METRICS_HEAD."""
    title = f"{d.title} {'↑' if d.better == 'higher' else '↓'}"
    counts = f"{d.wins:,} : {d.losses:,} : {d.ties:,}"
    verdict = d.verdict if meaning_of(d.metric).ranked else "–"
    return title, number(d.mean_a), number(d.mean_b), signed(d.gain), interval(d), counts, verdict


def identity_cells(change: IdentityChange) -> tuple[str, ...]:
    """A threshold's row under IDENTITY_HEAD."""
    threshold = "each subset's" if change.threshold is None else f"{change.threshold:g}"
    counts = (change.failed_a, change.failed_b, change.lost, change.regained)
    return change.metric, threshold, *(f"{n:,}" for n in counts)


def side_efforts(sides: Mapping[Letter, SideFacts]) -> list[tuple[str, ...]]:
    """The rows under EFFORT_HEAD of the sides that were restored in a workspace."""
    return [effort_cells(f"{a.upper()}, {side.name}", side.effort) for a, side in sides.items() if side.effort]


def effort_cells(side: str, effort: Effort) -> tuple[str, ...]:
    """A side's row under EFFORT_HEAD."""
    each = effort.seconds / effort.pictures if effort.pictures else None
    cost = "" if effort.cost is None else f"{effort.cost:.2f}"
    times = (duration(effort.seconds), duration(each), duration(effort.wall_seconds))
    return side, f"{effort.pictures:,}", f"{effort.faces:,}", *times, cost


def signed(value: float) -> str:
    """A gain with its sign, and two digits that matter however small it is: +1.23, −0.012, +0.00042."""
    if value == 0:
        return "0"
    digits = 1 - floor(log10(abs(value)))
    text = number(abs(value)) if digits <= 3 else f"{abs(value):.{digits}f}"
    return f"{'+' if value > 0 else '−'}{text}"


def interval(d: Difference) -> str:
    """Both ends, or why there are none."""
    return "too few pictures" if d.low is None or d.high is None else f"{signed(d.low)} … {signed(d.high)}"


def _opening(found: ComparisonFacts) -> list[Block]:
    return [
        *(Paragraph(f"{letter.upper()} is {side.what}.") for letter, side in found.sides.items()),
        Paragraph(
            f"{found.pairs:,} faces of {found.pictures:,} pictures are in both. A gain is the mean over the pairs of B "
            f"minus A, turned round where lower is better (↓), so that a positive gain always means that B is better. "
            f"The intervals hold the true mean with {found.confidence:.0%} confidence; they come from drawing as many "
            f"pictures from the pictures, with all their faces, {found.resamples:,} times. There are none for fewer "
            f"than {pictures_needed(found.confidence)} pictures. A verdict needs an interval that leaves out zero."
        ),
    ]


def _whole_sets(found: ComparisonFacts) -> list[Block]:
    rows = [(name, *(number(value) for value in pair)) for name, pair in found.sets.items() if any(pair)]
    if not rows:
        return []
    return [Paragraph("Numbers that a whole set has, without an interval:"), Table(("number", "A", "B"), rows)]


def _identity(found: ComparisonFacts) -> list[Block]:
    if not found.identity:
        why = found.not_compared.get("identity", "identity was not measured")
        text = f"Whether anybody became another person cannot be said: {why}."
        return [Heading("Identity"), Paragraph(text)]
    rows = [identity_cells(change) for change in found.identity]
    text = (
        "A face fails where its similarity lies below the threshold: it counts as another person. Lost: the same "
        "person in A and another in B; regained: the reverse. The thresholds are the challenge's, made for AdaFace."
    )
    lost = [Paragraph(_lost(change)) for change in found.identity if change.lost]
    return [Heading("Identity"), Paragraph(text), Table(IDENTITY_HEAD, rows), *lost]


def _lost(change: IdentityChange) -> str:
    threshold = "its subset's threshold" if change.threshold is None else f"{change.threshold:g}"
    return f"Lost at {threshold} by {change.metric}: {_names(change.lost_faces, change.lost)}."


def _effort(found: ComparisonFacts) -> list[Block]:
    rows = side_efforts(found.sides)
    if not rows:
        return []
    text = (
        "Time in stages is added over workers and over all runs whose results were kept; the time of the runs is "
        "by the clock, with starting up. Cost is time in stages at the given price of a GPU hour."
    )
    return [Heading("Time and cost"), Paragraph(text), Table(EFFORT_HEAD, rows)]


def _left_out(found: ComparisonFacts) -> list[Block]:
    told = [
        f"In {side} only, {count:,} faces: {_names(names, count)}."
        for side, count, names in (("A", found.only_a, found.only_a_faces), ("B", found.only_b, found.only_b_faces))
        if count
    ]
    if found.other_input:
        names = _names(found.other_input_faces, found.other_input)
        told.append(
            f"Restored from different inputs or held against different truths, {found.other_input:,} faces: {names}."
        )
    for side, problems in (("A", found.problems_a), ("B", found.problems_b)):
        if problems:
            told.append(f"Not measured in {side}: {', '.join(f'{n:,} {code}' for code, n in problems.items())}.")
    told += [f"{metric}: {why}." for metric, why in found.not_compared.items()]
    return [Heading("What was not compared"), *(Paragraph(text) for text in told)] if told else []


def _worst(found: ComparisonFacts) -> list[Block]:
    if not found.worst:
        return [Heading("Worst regressions"), Paragraph("No face became worse by any metric.")]
    order = panels(found.sides)
    text = (
        f"From left to right: {', '.join(order)}. The faces that fell furthest by any metric, measured in standard "
        "deviations of that metric (σ)."
    )
    shown = [
        Figure(path, f"{', '.join(order)} of {each.key}, face {each.face + 1}", caption(each))
        for path, each in zip(found.worst_pictures, found.worst, strict=True)
        if path
    ]
    return [Heading("Worst regressions"), Paragraph(text), *shown]


def panels(sides: Mapping[Letter, SideFacts]) -> tuple[str, ...]:
    """What a strip shows, from left to right; originals are not shown twice."""
    return ("input", *(letter.upper() for letter, side in sides.items() if side.kind != "originals"))


def caption(each: Regression) -> str:
    """A regression in words."""
    values = f"{each.metric} {number(each.a)} → {number(each.b)}"
    return f"{each.key}, face {each.face + 1}: {values} ({each.fall:.1f} σ worse)"


def _names(names: Names, count: int) -> str:
    listed = ", ".join(f"{key} (face {face + 1})" if face else key for key, face in names[:LISTED])
    return listed if count <= LISTED else f"{listed} and {count - LISTED:,} more"
