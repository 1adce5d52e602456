"""A promotion in words: the page of the dashboard, and what `mpsr rollback` and `mpsr promotions` print."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from flows.gate.journal import Journal

MEANINGS = {
    "promote": "the new result replaces the older one",
    "keep": "the older result stays",
    "take": "there was no older result: the new one goes in",
    "original": "there was no older result and the new one is below the floors: the original goes in",
}
WORST = 10
"""Faces that fell furthest, on the page."""


def in_short(why: str) -> str:
    """A sentence about one picture without its numbers, so that sentences can be counted."""
    return re.sub(r"-?\d+(\.\d+)?", "…", why)[:160]


def markdown(journal: Journal) -> str:
    """The decision, its numbers, what it did to how many pictures, and the worst regressions."""
    decision = journal.decision
    verdict = "promoted" if decision["promote"] else "nothing promoted, the older results stay"
    lines = [
        f"**{verdict}** — recipe {journal.recipe}, {decision['faces']} faces compared, promotion `{journal.id}`",
        "",
    ]
    lines += _table(("bound", "kept", "numbers"), _checks(decision))
    lines += _table(("what", "pictures", "meaning"), ((a, n, MEANINGS[a]) for a, n in sorted(journal.counts.items())))
    lines += _table(("why", "pictures"), journal.reasons.items())
    lines += _table(("metric", "before", "after", "gain", "interval", "wins", "losses"), _differences(decision))
    lines += _table(("fell furthest", "face", "metric", "before", "after"), _regressions(decision))
    lacking = decision["not_compared"]
    lines += [f"Not compared: {name}: {said}" for name, said in lacking.items()]
    if journal.moved_on:
        lines.append(f"{journal.moved_on} pictures had been dealt with otherwise since the decision.")
    return "\n".join(lines)


def _checks(decision: Mapping[str, Any]) -> Iterable[tuple[object, ...]]:
    return ((check["name"], "yes" if check["passed"] else "**no**", check["said"]) for check in decision["checks"])


def _differences(decision: Mapping[str, Any]) -> Iterable[tuple[object, ...]]:
    for row in decision["differences"]:
        interval = "—" if row["low"] is None else f"{row['low']:+.4f} … {row['high']:+.4f}"
        means = f"{row['mean_a']:.4f}", f"{row['mean_b']:.4f}", f"{row['gain']:+.4f}"
        yield row["title"], *means, interval, row["wins"], row["losses"]


def _regressions(decision: Mapping[str, Any]) -> Iterable[tuple[object, ...]]:
    for row in decision["worst"][:WORST]:
        yield row["path_b"], row["face"], row["metric"], f"{row['a']:.4f}", f"{row['b']:.4f}"


def _table(heads: tuple[str, ...], rows: Iterable[Iterable[object]]) -> list[str]:
    """A Markdown table; nothing without rows. Names of files may hold anything."""
    body = ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads), *body, ""] if body else []


def _cell(value: object) -> str:
    return str(value).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
