"""Tables and sentences of `mpsr evaluate`'s answer, for people at a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from flows.cli.words.terminal import out, plain, print_error, say
from flows.cli.words.weights import human_bytes, names_to_pull, print_commands
from infra.extras import EXTRAS, how_to_get, is_here
from infra.weights import weights_row
from tasks.measuring import METRICS, NOTHING_TO_MEASURE, PROBLEMS

if TYPE_CHECKING:
    from infra.weights import WeightsStore

DIGITS = {"psnr": 2, "musiq": 2}


def print_evaluation(facts: Mapping[str, Any], store: WeightsStore) -> None:
    """Means, identity, score, what is missing, and where the files are; `facts` as evaluation.json.

    `store` is asked for the weights that a missing metric needs.
    """
    overall, subsets = facts["overall"], facts["subsets"]
    out.print(_means(subsets, overall, _shown(facts)))
    say("arrows:  ", "↑ more is better, ↓ less is better; means of", _faces(facts))
    if any(name.endswith("_onnx") for name in overall["means"]):
        say("beware:   identity_onnx comes from a network of your own: compare it with itself, not with AdaFace")
    _print_books(facts)
    _print_verdict(overall, subsets)
    _print_score(overall)
    if facts["missing"]:
        _print_missing(facts["missing"], store)
    if facts["dataset"]:
        _print_row(facts["table"])
    say(f"files:    {facts['folder']}: evaluation.parquet (every face), evaluation.json, row.md and two CSV files")
    say(f"report:   {facts['report']}")


def _shown(facts: Mapping[str, Any]) -> list[str]:
    """The metrics with a number, in the order of METRICS; FID stands behind them."""
    known = set(facts["overall"]["means"])
    return [name for name in METRICS if name in known]


def _means(subsets: Mapping[str, Any], overall: Mapping[str, Any], metrics: Sequence[str]) -> Table:
    fid = overall["fid"] is not None
    table = Table(show_edge=False)
    for heading in ("subset", "faces", *(_heading(name) for name in (*metrics, *(["fid"] if fid else [])))):
        table.add_column(heading, justify="left" if heading == "subset" else "right")
    named = {name: subset for name, subset in subsets.items() if name}
    for name, subset in named.items():
        table.add_row(plain(name), _of(subset), *_cells(subset["means"], metrics), *(["–"] if fid else []))
    end = [f"{overall['fid']:.2f}"] if fid else []
    table.add_row("all", str(overall["images"]), *_cells(overall["means"], metrics), *end, style="bold")
    return table


def _heading(name: str) -> str:
    return f"{name} {'↑' if METRICS[name].better == 'higher' else '↓'}"


def _of(subset: Mapping[str, Any]) -> str:
    expected = subset["expected"]
    return str(subset["images"]) if expected in (None, subset["images"]) else f"{subset['images']} of {expected}"


def _cells(means: Mapping[str, float], metrics: Sequence[str]) -> list[str]:
    return [f"{means[name]:.{DIGITS.get(name, 4)}f}" if name in means else "–" for name in metrics]


def _faces(facts: Mapping[str, Any]) -> str:
    part = "" if facts["sample"] == 1 else f", a sample of {facts['sample']:.0%}"
    how = "aligned pictures" if facts["aligned"] else f"faces found in the inputs by {facts['detector']['detector']}"
    return f"{facts['overall']['images']} {how}{part}"


def _print_books(facts: Mapping[str, Any]) -> None:
    """What was not measured and why; nothing is passed over in silence."""
    for code, n in facts["problems"].items():
        sentence = PROBLEMS.get(code, code.replace("_", " "))
        if code in NOTHING_TO_MEASURE:
            say(f"nothing:  {n} × {code} ({sentence})")
        else:
            print_error(f"{n} × {code} ({sentence})")
    for problem in facts["examples"]:
        say(f"          {problem['path']}:", problem["problem_text"])
    if facts["unrestored"]:
        say(f"note:     inputs without a restored picture: {facts['unrestored']}")
    short = {name: s for name, s in facts["subsets"].items() if s["expected"] not in (None, s["images"])}
    if short:
        said = ", ".join(f"{name} {s['images']} of {s['expected']}" for name, s in short.items())
        say(f"note:     not the complete data set ({said}): its numbers are not those of the challenge")


def _print_verdict(overall: Mapping[str, Any], subsets: Mapping[str, Any]) -> None:
    if overall["identity_failures"] is None:
        return
    failures = ", ".join(
        f"{name} {s['identity_failures']} below {s['threshold']:g}"
        for name, s in subsets.items()
        if s["identity_failures"] is not None
    )
    ranked = {True: "valid: it would be ranked", False: "not valid: it would not be ranked"}.get(overall["valid"])
    said = ranked or "whether it would be ranked cannot be told from a part"
    say(f"identity: failures: {overall['identity_failures']} ({failures});", said)


def _print_score(overall: Mapping[str, Any]) -> None:
    if overall["score"] is not None:
        terms = " + ".join(f"{name} {value:.4f}" for name, value in overall["score_terms"].items())
        say(f"score:    {overall['score']:.4f} = {terms}")
    else:
        say(f"score:    none: of its six terms these were not measured: {', '.join(overall['score_missing'])}")


def _print_missing(missing: Mapping[str, str], store: WeightsStore) -> None:
    """A line per metric that could not be taken, then the commands that bring what they need, each once."""
    wanted: dict[str, dict[str, Any]] = {}
    extras = set()
    for place, (name, sentence) in enumerate(missing.items()):
        metric = METRICS[name]
        rows = [weights_row(store, weight) for weight in (*metric.weights, *metric.set_weights)]
        absent = [row for row in rows if not row["present"]]
        wanted |= {row["name"]: row for row in absent}
        package = [EXTRAS[metric.extra]] if metric.extra and not is_here(metric.extra) else []
        extras |= {metric.extra} if package else set()
        said = ", ".join([*package, *(f"{row['name']} ({_bytes(row)})" for row in absent)]) or sentence
        say(f"{'missing: ' if place == 0 else '         '} {name:{max(map(len, missing))}}  needs", said)
    for extra in sorted(extras):
        say(" ", how_to_get(extra))
    if wanted:
        print_commands(list(wanted.values()), names_to_pull(list(wanted.values())))


def _bytes(row: Mapping[str, Any]) -> str:
    return human_bytes(row["about_bytes"]) if row["about_bytes"] else "size not known"


def _print_row(table: str) -> None:
    """The Markdown table as it is, ready to be copied."""
    say("")
    for line in table.splitlines():
        say(line)
