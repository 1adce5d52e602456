"""The shell of every page: one HTML file with its own style and script, and its data and pictures beside it.

A page opens from disk without a network. What it does not need at once lies in chunks, which are scripts, since a page
on disk may not fetch. File names are hostile: they reach a page only as escaped JSON that the script sets as text, or
through Jinja's escaping.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tasks.pages.shared.words import FILTERS, MISSING

FOLDER = "report"
"""Where a page lies in its workspace or evaluation."""
PICTURES = "pictures"
CHUNK = 200
"""Rows whose details come in one file."""
_PAGES = Path(__file__).parents[1]


class Folder(Protocol):
    """What a page needs of a storage (infra.storage.Storage fulfils it)."""

    def write_atomic(self, path: str, data: bytes) -> None:
        """Writes the whole file or nothing."""

    def delete(self, path: str) -> None:
        """Deletes one file."""

    def delete_tree(self, path: str) -> None:
        """Deletes a folder, if it is there."""

    def walk(self, prefix: str) -> Iterator[Any]:
        """Every file below the prefix, with its `path`."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of numbers: the first `texts` columns are words, the others are right-aligned. Cells are words already.

    The caption is read by everyone where it is `told`, else by screen readers only.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 1
    told: bool = False


class Site:
    """A page's folder while it is written. Data and pictures of an earlier page go in the end, unless they are kept."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._earlier = {path for part in ("data", PICTURES) for path in _below(folder, part)}
        self._kept: set[str] = set()
        self._lines: list[object] = []
        self._chunks = 0
        self._digest = hashlib.sha256()

    def keep(self, path: str) -> bool:
        """Keeps a file of an earlier page; False where there is none."""
        if path in self._earlier:
            self._kept.add(path)
        return path in self._earlier

    def write(self, path: str, data: bytes) -> None:
        """Writes a file beside the page; `path` is relative to it."""
        self._folder.write_atomic(f"{FOLDER}/{path}", data)
        self._kept.add(path)

    def chunk(self, name: str, value: object) -> None:
        """Writes data that the page's script takes under that name."""
        text = f"take('{name}',{script_json(value)})".encode()
        self._digest.update(text)
        self.write(f"data/{name}.js", text)

    def detail(self, line: object) -> None:
        """Tells what the page shows of its next row when that is opened."""
        self._lines.append(line)
        if len(self._lines) == CHUNK:
            self._write_details()

    def finish(self, name: str, payload: Mapping[str, object], **shown: object) -> str:
        """Writes the page `name` (`run`, `evaluation`), last of all; returns its path in the storage."""
        if self._lines:
            self._write_details()
        asked = {"chunk": CHUNK, "stamp": self._digest.hexdigest()[:12], **payload}
        template = _environment().get_template(f"{name}/{name}.html.jinja")
        html = template.render(shown, payload=Markup(script_json(asked)))
        self.write("index.html", html.encode())
        for path in self._earlier - self._kept:
            self._folder.delete(f"{FOLDER}/{path}")
        if not any(path.startswith(f"{PICTURES}/") for path in self._kept):
            self._folder.delete_tree(f"{FOLDER}/{PICTURES}")
        return f"{FOLDER}/index.html"

    def _write_details(self) -> None:
        self.chunk(f"details-{self._chunks:04d}", self._lines)
        self._chunks += 1
        self._lines = []


def plain_page(title: str, body: str) -> str:
    """A page of words, tables and pictures in the shell, without a script; `body` is HTML and trusted as it stands."""
    template = _environment().get_template("shared/plain.html.jinja")
    return template.render(title=title, body=Markup(body))


def script_json(value: object) -> str:
    """JSON that no HTML parser can leave: `<`, `>`, `&` and every character beyond ASCII are escaped."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def _environment() -> Environment:
    """Templates are named from the folder of pages; everything that they are given is escaped."""
    environment = Environment(loader=FileSystemLoader(_PAGES), autoescape=True, undefined=StrictUndefined)
    environment.filters.update(FILTERS)
    environment.globals.update(missing=MISSING, own=_own, payload="")
    return environment


def _own(name: str) -> Markup:
    """A style or script below the folder of pages, as it is."""
    return Markup((_PAGES / name).read_text("utf-8"))


def _below(folder: Folder, part: str) -> Iterator[str]:
    try:
        yield from (info.path.removeprefix(f"{FOLDER}/") for info in folder.walk(f"{FOLDER}/{part}"))
    except FileNotFoundError:
        return
