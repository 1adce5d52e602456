"""A whole evaluation as the challenge writes it: its script's two CSV files, and a row beside the published table.

Layout: eval.py of zhengchen1999/NTIRE2025_RealWorld_Face_Restoration. Where that script writes 0 because nothing
belongs in the cell (a subset's FID), so do these; a number that could not be measured is an empty cell instead. The
module knows nothing of files.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from tasks.measuring.challenge import (
    PUBLISHED,
    Published,
    Scored,
    SubsetSummary,
    Summary,
    score_terms,
    terms,
)
from tasks.measuring.metrics import METRICS, challenge_metrics

MARKDOWN = ("Rank", "Team", "Score", "NIQE", "CLIPIQA", "MANIQA", "MUSIQ", "Q-Align", "FID", "AdaFace", "failed")
Cell = str | float | int | None


def challenge_csv(rows: Sequence[Scored], summary: Summary) -> tuple[str, str]:
    """The two files of the challenge's script: (`…_total.csv`, `….csv`); a number that was not measured is empty."""
    return _csv(_total_rows(summary)), _csv(_image_rows(rows))


def markdown_row(name: str, summary: Summary) -> str:
    """A Markdown table: the published rows, then this evaluation's in bold, `–` for what was not measured.

    Below it stand the reasons why the row may not compare with the others.
    """
    lines = [_line(MARKDOWN), _line(["---"] * len(MARKDOWN))]
    lines += [_line(_published_cells(row)) for row in PUBLISHED]
    lines.append(_line([f"**{cell}**" for cell in _own_cells(name, summary)]))
    return "\n".join([*lines, "", *_caveats(summary)]).rstrip() + "\n"


def place(score: float) -> int:
    """The rank that a Score would have had among the ranked entries."""
    return 1 + sum(row.rank is not None and row.total > score for row in PUBLISHED)


def _csv(rows: Sequence[Sequence[Cell]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _total_rows(summary: Summary) -> list[list[Cell]]:
    lines: list[list[Cell]] = [["Dataset", *_columns().values(), "low_ID_Sim", "Total"]]
    for name, subset in summary.subsets.items():
        lines.append([name, *_metrics({**subset.means, "fid": 0}), subset.identity_failures, 0])
    overall = {**summary.means, "fid": summary.fid}
    lines.append(["All", *_metrics(overall), summary.identity_failures, 0])
    lines.append(["Weighted Score", *_metrics({**terms(overall), "identity": 0}), 0, summary.score])
    return lines


def _columns() -> dict[str, str]:
    """Metric → column of the script."""
    return {name: METRICS[name].challenge for name in challenge_metrics()}


def _metrics(values: Mapping[str, float | None]) -> list[Cell]:
    return [values.get(metric) for metric in challenge_metrics()]


def _image_rows(rows: Sequence[Scored]) -> list[list[Cell]]:
    """Columns in the order of the alphabet, as in the script; those that no picture has are left out, as there."""
    known = _columns()
    measured = {known[name]: name for row in rows for name in row.values if name in known}
    columns = sorted([*measured, "Dataset"])
    lines: list[list[Cell]] = [["Filename", *columns]]
    for row in rows:
        cells: list[Cell] = [row.subset if c == "Dataset" else row.values.get(measured[c]) for c in columns]
        lines.append([PurePosixPath(row.path).name, *cells])
    return lines


def _published_cells(row: Published) -> list[str]:
    figures = [row.total, row.niqe, row.clipiqa, row.maniqa, row.musiq, row.qalign, row.fid, row.identity]
    return ["N/A" if row.rank is None else str(row.rank), row.team, *(f"{f:.4f}" for f in figures), str(row.failed)]


def _own_cells(name: str, summary: Summary) -> list[str]:
    figures = [summary.score, *_metrics({**summary.means, "fid": summary.fid})]
    shown = ["–" if figure is None else f"{figure:.4f}" for figure in figures]
    failed = "–" if summary.identity_failures is None else str(summary.identity_failures)
    return [_rank(summary), name.replace("|", "\\|"), *shown, failed]


def _rank(summary: Summary) -> str:
    if summary.valid is False:
        return "N/A"
    whole = summary.valid and not any(_is_short(summary, name) for name in summary.subsets)
    return f"({place(summary.score)})" if whole and summary.score is not None else "–"


def _caveats(summary: Summary) -> list[str]:
    said = []
    if summary.score_missing:
        said.append(f"No Score: not measured: {', '.join(summary.score_missing)}.")
    expected = {name: subset.expected for name, subset in summary.subsets.items() if subset.expected is not None}
    if not expected:
        said.append("Measured on other pictures than the challenge's: the rows above are for orientation only.")
    elif short := [
        f"{name} {_measured(summary.subsets[name])} of {n}" for name, n in expected.items() if _is_short(summary, name)
    ]:
        said.append(f"Not every picture of the data set has every number: {', '.join(short)}.")
    return said


def _is_short(summary: Summary, name: str) -> bool:
    subset = summary.subsets[name]
    return subset.expected is not None and _measured(subset) < subset.expected


def _measured(subset: SubsetSummary) -> int:
    """Faces with every number that the Score asks for of each face."""
    terms = [name for name in score_terms() if name in subset.means]
    return min([subset.images, *(subset.measured[name] for name in terms)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
