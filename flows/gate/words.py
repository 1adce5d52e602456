"""A promotion in words: the page of the dashboard, and what `mpsr rollback` and `mpsr promotions` print."""

from __future__ import annotations

import re
from collections.abc import Iterable

from flows.gate.journal import Journal
from tasks.comparing import Difference

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
    verdict = "promoted" if decision.promote else "nothing promoted, the older results stay"
    lines = [
        f"**{verdict}** — recipe {journal.recipe}, {decision.faces} faces compared, promotion `{journal.id}`",
        "",
    ]
    checks = ((check.name, "yes" if check.passed else "**no**", check.said) for check in decision.checks)
    lines += _table(("bound", "kept", "numbers"), checks)
    lines += _table(("what", "pictures", "meaning"), ((a, n, MEANINGS[a]) for a, n in sorted(journal.counts.items())))
    lines += _table(("why", "pictures"), journal.reasons.items())
    heads = ("metric", "before", "after", "gain", "interval", "wins", "losses")
    lines += _table(heads, (_difference(each) for each in decision.differences))
    worst = ((each.path_b, each.face, each.metric, f"{each.a:.4f}", f"{each.b:.4f}") for each in decision.worst[:WORST])
    lines += _table(("fell furthest", "face", "metric", "before", "after"), worst)
    lines += [f"Not compared: {name}: {said}" for name, said in decision.not_compared.items()]
    if journal.moved_on:
        lines.append(f"{journal.moved_on} pictures had been dealt with otherwise since the decision.")
    return "\n".join(lines)


def _difference(d: Difference) -> tuple[object, ...]:
    interval = "—" if d.low is None else f"{d.low:+.4f} … {d.high:+.4f}"
    return d.title, f"{d.mean_a:.4f}", f"{d.mean_b:.4f}", f"{d.gain:+.4f}", interval, d.wins, d.losses


def _table(heads: tuple[str, ...], rows: Iterable[Iterable[object]]) -> list[str]:
    """A Markdown table; nothing without rows. Names of files may hold anything."""
    body = ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads), *body, ""] if body else []


def _cell(value: object) -> str:
    return str(value).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
