"""The tables of an evaluation's page: the whole set beside the published numbers, subsets, quantiles, failures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from markupsafe import Markup

from tasks.archive import REASONS
from tasks.measuring import PROBLEMS, PUBLISHED, Evaluation, Published, meaning_of
from tasks.pages.evaluation.charts import Plane
from tasks.pages.evaluation.sheet import IdentityChart, Sheet
from tasks.pages.shared.shell import Table
from tasks.pages.shared.words import OUTCOME_WORDS, count, directed, duration, exact

CHALLENGE = "ntire2025-realworld-face"
"""The data set that the published numbers are of."""
MPSR = next((row for row in PUBLISHED if row.team.startswith("MiPortrait")), None)
"""The row of the challenge's table that is the entry which MPSR is."""


def is_comparable(evaluation: Evaluation) -> bool:
    """Whether the set is laid out as the one that the published numbers are of."""
    return MPSR is not None and evaluation.facts.dataset == CHALLENGE


def whole_set(evaluation: Evaluation) -> Table:
    """Means over all measured faces, beside the published ones."""
    facts, overall = evaluation.facts, evaluation.facts.overall
    lines: list[tuple[Markup, float | None, float | None]] = []
    if MPSR or overall.score is not None:
        lines.append((directed("Score", "higher"), overall.score, MPSR.total if MPSR else None))
    for name in dict.fromkeys((*facts.metrics, *facts.missing)):
        value = overall.fid if name == "fid" else overall.means.get(name)
        lines.append((_directed(evaluation, name), value, getattr(MPSR, name, None)))
    published, compared = MPSR is not None, is_comparable(evaluation)
    rows = [_beside(name, exact(value), value, known, published, compared) for name, value, known in lines]
    failed = overall.identity_failures
    if MPSR or failed is not None:
        name, limit = directed("Identity failures", "lower"), MPSR.failed if MPSR else None
        rows.append(_beside(name, count(failed), failed, limit, published, compared))
    head = ["Metric", "This set", *(["Published"] if published else []), *(["Difference"] if compared else [])]
    return Table("Means over all measured faces" + _beside_whom(), head, rows, told=True)


def _beside_whom() -> str:
    if MPSR is None:
        return ""
    rank = f", rank {MPSR.rank}" if MPSR.rank else ""
    return f", beside what the challenge’s report published for MPSR (team {MPSR.team}{rank})"


def _beside(
    name: str, told: str, value: float | None, known: float | None, published: bool, compared: bool
) -> list[str]:
    """One line: a number, what was published in its place, and the difference where it means something."""
    whole = isinstance(known, int)
    difference = "" if known is None or value is None else f"{value - known:+d}" if whole else f"{value - known:+.4f}"
    beside = "" if known is None else str(known) if whole else exact(known)
    return [name, told, *([beside] if published else []), *([difference] if compared else [])]


def published_rows() -> Table:
    """The challenge's table."""
    names = ("total", "niqe", "clipiqa", "maniqa", "musiq", "qalign", "fid", "identity")
    head = ["Team", "Rank", "Score", "NIQE", "CLIPIQA", "MANIQA", "MUSIQ", "Q-Align", "FID", "AdaFace", "Failed"]
    return Table("All published rows", head, [_published_row(row, names) for row in PUBLISHED])


def _published_row(row: Published, names: Sequence[str]) -> list[str]:
    rank = "not ranked" if row.rank is None else str(row.rank)
    return [row.team, rank, *(exact(getattr(row, name)) for name in names), str(row.failed)]


def by_subset(evaluation: Evaluation) -> Table | None:
    """Means of every subset; None where the set is one."""
    subsets = evaluation.facts.subsets
    if not subsets or list(subsets) == [""]:
        return None
    names = [name for name in evaluation.facts.metrics if any(name in each.means for each in subsets.values())]
    head = ["Subset", "Faces", *(_directed(evaluation, name) for name in names), "Threshold", "Below it"]
    rows = [
        [
            name or "no subset",
            f"{each.images:,} of {each.expected:,}" if each.expected else count(each.images),
            *(exact(each.means.get(metric)) for metric in names),
            "" if each.threshold is None else str(each.threshold),
            "" if each.identity_failures is None else count(each.identity_failures),
        ]
        for name, each in subsets.items()
    ]
    return Table("Means of every subset", head, rows)


def quantiles(sheet: Sheet) -> Table:
    """How every column that somebody measured is spread over the faces."""
    head = ["Metric", "Faces", "Mean", "Least", "5 %", "25 %", "Median", "75 %", "95 %", "Greatest"]
    measured = [(column.title, column.values[~np.isnan(column.values)]) for column in sheet.columns]
    rows = [
        [title, count(known.size), exact(known.mean()), *map(exact, np.percentile(known, (0, 5, 25, 50, 75, 95, 100)))]
        for title, known in measured
        if known.size
    ]
    return Table("Distributions in numbers", head, rows)


def likeness(charts: Sequence[IdentityChart]) -> Table:
    """Similarity to the input in every subset."""
    head = ["Subset", "Faces", "Threshold", "Below it", "Least", "Median", "Mean"]
    rows = [
        [
            chart.subset or "all faces",
            count(chart.distribution.after_count),
            "none" if chart.threshold is None else str(chart.threshold),
            "" if chart.failed is None else count(chart.failed),
            *map(exact, (chart.least, chart.median, chart.distribution.after_mean)),
        ]
        for chart in charts
    ]
    return Table("Identity in numbers", head, rows)


def decisions(plane: Plane) -> Table:
    """What a gate decided, by where a face's scores lie."""
    rows = [[words, count(ran), count(spared)] for words, ran, spared in plane.table]
    caption = f"Decisions of {plane.stage} by where a face’s scores lie"
    return Table(caption, ["Scores of the face", "Ran", "Spared"], rows)


def seconds(evaluation: Evaluation) -> Table:
    """What every metric took."""
    facts = evaluation.facts
    total = f", {duration(facts.seconds)} in all" if facts.seconds is not None else ""
    caption = f"This evaluation{total}; seconds of computing by metric, summed over workers"
    rows = [[title_in(evaluation, name), duration(spent)] for name, spent in facts.stages.items()]
    return Table(caption, ["Metric", "Time"], rows, told=True)


def unmeasured(evaluation: Evaluation) -> Table:
    """Pairs that could not be measured; a reason leads to its faces in the list."""
    link = Markup('<a href="#list" data-problem="{}">{}</a>')
    rows = [
        [link.format(code, code.replace("_", " ")), problem_words(code), count(n)]
        for code, n in evaluation.facts.problems.items()
    ]
    return Table("Pairs that could not be measured", ["Reason", "Meaning", "Pairs"], rows, texts=2, told=True)


def fates(reasons: dict[str, int]) -> Table:
    """What became of the archive's files in the run that restored, and why."""
    head = ["Reason", "Outcome", "Meaning", "Files"]
    rows = [list(_fate(code, n)) for code, n in reasons.items()]
    return Table("Files of the archive, by what became of them and why", head, rows, texts=3, told=True)


def _fate(code: str, files: int) -> Iterator[str]:
    outcome, sentence = REASONS.get(code, ("failed", code))
    yield code.replace("_", " ")
    yield Markup('<span class="tag {}">{}</span>').format(outcome, OUTCOME_WORDS[outcome].label)
    yield sentence
    yield count(files)


def instruments(evaluation: Evaluation) -> Table:
    """Metrics, the digests of their versions and settings, and their weights."""
    rows = [
        [
            title_in(evaluation, name),
            Markup('<code class="hash" title="{}">{}</code>').format(each.digest, each.digest[:16]),
            Markup("").join(_weight(*weight) for weight in each.weights.items()) or "none",
        ]
        for name, each in evaluation.facts.metrics.items()
    ]
    return Table("Metrics and their weights", ["Metric", "Digest", "Weights, by sha256"], rows, texts=3)


def _weight(name: str, sha256: str) -> Markup:
    return Markup('<div>{} <code class="hash">{}</code></div>').format(name, sha256)


def problem_words(code: str) -> str:
    """What the reason code of an evaluation means."""
    return PROBLEMS.get(code) or (REASONS[code][1] if code in REASONS else code)


def title_in(evaluation: Evaluation, name: str) -> str:
    """A metric's title, as the evaluation or today's table has it."""
    said = evaluation.facts.metrics.get(name)
    return said.title if said and said.title else meaning_of(name).title


def _directed(evaluation: Evaluation, name: str) -> Markup:
    said = evaluation.facts.metrics.get(name)
    return directed(title_in(evaluation, name), said.better if said else meaning_of(name).better)
