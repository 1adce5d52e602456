"""A short document of headings, paragraphs, tables and pictures, written once and told as Markdown and as HTML.

For results of a comparison or a benchmark; the report of a run is `tasks.pages.run`. It knows nothing of what it tells.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TypeAlias
from urllib.parse import quote

_MARKED = re.compile(r"([\\`*_\[\]<>|#])")
_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --paper: #fff; --faint: #60666d; --line: #d8dce0; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8ea; --paper: #15181b; --faint: #a0a7ae; --line: #3a4047; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1rem 0; }
th, td { padding: .25rem .75rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child, .text th, .text td { text-align: left; }
figure { margin: 1.5rem 0; }
figcaption { color: var(--faint); overflow-wrap: anywhere; }
img { max-width: 100%; height: auto; }
"""


@dataclass(frozen=True)
class Heading:
    """A section begins."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str


@dataclass(frozen=True)
class Table:
    """Cells as text; the first column is left-aligned, the others are numbers and right-aligned unless all are text."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: bool = False


@dataclass(frozen=True)
class Figure:
    """A picture beside the document. `alt` says what it shows to whoever cannot see it."""

    path: str
    alt: str
    caption: str


Block: TypeAlias = Heading | Paragraph | Table | Figure


def to_markdown(title: str, blocks: Sequence[Block]) -> str:
    """The document as GitHub's Markdown."""
    return "\n\n".join([f"# {_plain(title)}", *(_markdown(block) for block in blocks)]) + "\n"


def to_html(title: str, blocks: Sequence[Block]) -> str:
    """The document as one page that loads nothing from elsewhere, dark or light as the reader has it."""
    body = "\n".join(_html(block) for block in blocks)
    policy = "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n<h1>{escape(title)}</h1>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _markdown(block: Block) -> str:
    match block:
        case Heading(text):
            return f"## {_plain(text)}"
        case Paragraph(text):
            return _plain(text)
        case Table(head, rows, text):
            ruler = [":---", *[":---" if text else "---:"] * (len(head) - 1)]
            lines = [[_plain(cell) for cell in head], ruler, *([_plain(cell) for cell in row] for row in rows)]
            return "\n".join(f"| {' | '.join(line)} |" for line in lines)
        case Figure(path, alt, caption):
            return f"![{_plain(alt)}]({quote(path)})\n\n{_plain(caption)}"


def _html(block: Block) -> str:
    match block:
        case Heading(text):
            return f"<h2>{escape(text)}</h2>"
        case Paragraph(text):
            return f"<p>{escape(text)}</p>"
        case Table(head, rows, text):
            titles = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
            lines = "\n".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
            inside = f"<thead><tr>{titles}</tr></thead>\n<tbody>\n{lines}\n</tbody>"
            kind = ' class="text"' if text else ""
            return f'<div class="scroll"><table{kind}>\n{inside}</table></div>'
        case Figure(path, alt, caption):
            image = f'<img src="{escape(quote(path))}" alt="{escape(alt)}" loading="lazy">'
            return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def _plain(text: str) -> str:
    """Names of files are not markup."""
    return _MARKED.sub(r"\\\1", text)
