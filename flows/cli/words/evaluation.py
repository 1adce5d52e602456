"""Tables and sentences of `mpsr evaluate`'s answer, for people at a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from flows.cli.words.terminal import out, print_error, say
from flows.cli.words.weights import human_bytes, names_to_pull, print_commands
from infra.extras import EXTRAS, how_to_get, is_here
from infra.weights import weights_row
from tasks.measuring import METRICS, NOTHING_TO_MEASURE, PROBLEMS

if TYPE_CHECKING:
    from infra.weights import WeightsRow, WeightsStore
    from tasks.measuring import EvaluationTold, Overall, SubsetSummary


def print_evaluation(told: EvaluationTold, store: WeightsStore) -> None:
    """Means, identity, score, what is missing, and where the files are.

    `store` is asked for the weights that a missing metric needs.
    """
    out.print(_means(told))
    say("arrows:  ", "↑ more is better, ↓ less is better; means of", _faces(told))
    if any(name.endswith("_onnx") for name in told.overall.means):
        say("beware:   identity_onnx comes from a network of your own: compare it with itself, not with AdaFace")
    _print_books(told)
    _print_verdict(told.overall, told.subsets)
    _print_score(told.overall)
    if told.missing:
        _print_missing(told.missing, store)
    if told.dataset:
        say("")
        for line in told.table.splitlines():
            say(line)
    say(f"files:    {told.folder}: evaluation.parquet (every face), evaluation.json, row.md and two CSV files")
    say(f"report:   {told.report}")


def _means(told: EvaluationTold) -> Table:
    """The metrics with a number, in the order of METRICS; FID, which only the whole has, stands behind them."""
    overall, metrics = told.overall, [name for name in METRICS if name in told.overall.means]
    fid = overall.fid is not None
    table = Table(show_edge=False)
    for heading in ("subset", "faces", *(_heading(name) for name in (*metrics, *(["fid"] if fid else [])))):
        table.add_column(heading, justify="left" if heading == "subset" else "right")
    for name, subset in told.subsets.items():
        if name:
            table.add_row(name, _of(subset), *_cells(subset.means, metrics), *(["–"] if fid else []))
    end = [] if overall.fid is None else [f"{overall.fid:.2f}"]
    table.add_row("all", str(overall.images), *_cells(overall.means, metrics), *end, style="bold")
    return table


def _heading(name: str) -> str:
    return f"{name} {'↑' if METRICS[name].better == 'higher' else '↓'}"


def _of(subset: SubsetSummary) -> str:
    return str(subset.images) if subset.expected in (None, subset.images) else f"{subset.images} of {subset.expected}"


def _cells(means: Mapping[str, float], metrics: Sequence[str]) -> list[str]:
    return [f"{means[name]:.{METRICS[name].digits}f}" if name in means else "–" for name in metrics]


def _faces(told: EvaluationTold) -> str:
    part = "" if told.sample == 1 else f", a sample of {told.sample:.0%}"
    how = f"faces found in the inputs by {told.detector['detector']}" if told.detector else "aligned pictures"
    return f"{told.overall.images} {how}{part}"


def _print_books(told: EvaluationTold) -> None:
    """What was not measured and why; nothing is passed over in silence."""
    for code, n in told.problems.items():
        sentence = PROBLEMS.get(code, code.replace("_", " "))
        if code in NOTHING_TO_MEASURE:
            say(f"nothing:  {n} × {code} ({sentence})")
        else:
            print_error(f"{n} × {code} ({sentence})")
    for example in told.examples:
        say(f"          {example.path}:", example.problem_text)
    if told.unrestored:
        say(f"note:     inputs without a restored picture: {told.unrestored}")
    short = [f"{name} {_of(s)}" for name, s in told.subsets.items() if s.expected not in (None, s.images)]
    if short:
        said = ", ".join(short)
        say(f"note:     not the complete data set ({said}): its numbers are not those of the challenge")


def _print_verdict(overall: Overall, subsets: Mapping[str, SubsetSummary]) -> None:
    if overall.identity_failures is None:
        return
    failures = ", ".join(
        f"{name} {s.identity_failures} below {s.threshold:g}"
        for name, s in subsets.items()
        if s.identity_failures is not None
    )
    ranked = {True: "valid: it would be ranked", False: "not valid: it would not be ranked"}
    said = "whether it would be ranked cannot be told from a part" if overall.valid is None else ranked[overall.valid]
    say(f"identity: failures: {overall.identity_failures} ({failures});", said)


def _print_score(overall: Overall) -> None:
    if overall.score is not None:
        terms = " + ".join(f"{name} {value:.4f}" for name, value in overall.score_terms.items())
        say(f"score:    {overall.score:.4f} = {terms}")
    else:
        say(f"score:    none: of its six terms these were not measured: {', '.join(overall.score_missing)}")


def _print_missing(missing: Mapping[str, str], store: WeightsStore) -> None:
    """A line per metric that could not be taken, then the commands that bring what they need, each once."""
    wanted: dict[str, WeightsRow] = {}
    extras = set()
    for place, (name, sentence) in enumerate(missing.items()):
        metric = METRICS[name]
        rows = [weights_row(store, weight) for weight in (*metric.weights, *metric.set_weights)]
        absent = [row for row in rows if not row.present]
        wanted |= {row.name: row for row in absent}
        package = [EXTRAS[metric.extra]] if metric.extra and not is_here(metric.extra) else []
        extras |= {metric.extra} if package else set()
        said = ", ".join([*package, *(f"{row.name} ({_bytes(row)})" for row in absent)]) or sentence
        say(f"{'missing: ' if place == 0 else '         '} {name:{max(map(len, missing))}}  needs", said)
    for extra in sorted(extras):
        say(" ", how_to_get(extra))
    if wanted:
        print_commands(list(wanted.values()), names_to_pull(list(wanted.values())))


def _bytes(row: WeightsRow) -> str:
    return human_bytes(row.about_bytes) if row.about_bytes else "size not known"
