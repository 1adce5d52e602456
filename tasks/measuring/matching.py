"""Which restored picture belongs to which input (and truth): by name, and refused where the name is not enough.

It sees inventory rows (see tasks.scan) and names, never pixels; it knows nothing of ledgers, metrics or runs.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

from infra.storage import FileInfo, Storage, decode_name
from tasks.measuring.challenge import Placed, Protocol
from tasks.measuring.files import PROBLEMS

Row = dict[str, Any]
PICTURES = {"png", "jpg", "jpeg", "jpe", "webp", "tif", "tiff", "bmp", "gif", "heic", "heif", "avif"}
"""Suffixes by which a file claims to be a picture."""
OTHERS = {
    "csv",
    "html",
    "json",
    "log",
    "md",
    "mov",
    "mp4",
    "parquet",
    "pdf",
    "toml",
    "txt",
    "xml",
    "xmp",
    "yaml",
    "zip",
}
"""Suffixes of files that are none; all others are looked into, as restoring does, and left out where they are none."""
RESTORED, INPUT, TRUTH = "restored", "input", "truth"
ROLES = (RESTORED, INPUT, TRUTH)


@dataclass(frozen=True)
class Rules:
    """How names are read: plainly, or as a data set's protocol has them. `placed` is its table of landmarks."""

    protocol: Protocol | None = None
    placed: Mapping[str, Placed] = field(default_factory=dict)
    sample: float = 1.0

    def counts(self, path: str) -> bool:
        """Whether a restored file is looked at: a data set counts PNG files only, and a sample a share of the keys."""
        claims = _suffix(path) == "png" if self.protocol else _suffix(path) not in OTHERS
        return claims and share_of(self.key(path)) < self.sample

    def key(self, path: str) -> str:
        """What a restored file and its input share: the path without suffix, or `subset/name` in a data set."""
        bare, subset = _bare(path), self.subset(path)
        return f"{subset}/{bare.rpartition('/')[2]}" if subset else bare

    def subset(self, path: str) -> str:
        """The data set's subset that a file belongs to, by its folder or by the table; "" where there is none."""
        folder, _, name = path.rpartition("/")
        subset = folder.rpartition("/")[2]
        if self.protocol is None or subset in self.protocol.subsets:
            return subset if self.protocol else ""
        placed = self.placed.get(_stem(name))
        return placed.subset if placed and placed.subset in self.protocol.subsets else ""

    def points(self, path: str) -> list[float] | None:
        """The ten numbers of the table's landmarks for a file; None where it has no row."""
        placed = self.placed.get(_stem(path.rpartition("/")[2]))
        return None if placed is None else [float(value) for value in placed.points.reshape(-1)]


class Trees:
    """The restored, input and truth folders as one source for a scan, each below a name of its own.

    Of inputs and truths it shows only what a restored file shares its key with, so that nothing else is read.
    """

    def __init__(self, folders: Mapping[str, Storage], rules: Rules) -> None:
        """`folders`: role of ROLES → storage. A role's name holds its address: another folder is another name."""
        self._rules = rules
        self.names = {role: f"{role}-{_sha256(storage.url)[:8]}" for role, storage in folders.items()}
        self._folders = {self.names[role]: storage for role, storage in folders.items()}
        self.unrestored = 0
        """Inputs that claim to be pictures and that no restored file shares its key with; known after a walk."""

    def walk(self, prefix: str = "") -> Iterator[FileInfo]:
        """Every file that an evaluation has to know. Raises StorageMissingError where a folder is not there."""
        keys: set[str] = set()
        for info in self._below(self.names[RESTORED]):
            path = _rest(info.ledger_path)
            if self._rules.counts(path):
                keys.add(self._rules.key(path))
                yield info
        for role in (INPUT, TRUTH):
            if role in self.names:
                yield from self._likes(role, keys)

    def open_read(self, path: str) -> BinaryIO:
        """A stream over a file that `walk` named."""
        name, _, rest = path.partition("/")
        return self._folders[name].open_read(rest)

    def role(self, path: str) -> str | None:
        """Which of ROLES a path of `walk` belongs to; None for the path of another evaluation's folder."""
        name = path.partition("/")[0]
        return next((role for role, known in self.names.items() if known == name), None)

    def _below(self, name: str) -> Iterator[FileInfo]:
        return (replace(info, path=f"{name}/{info.path}") for info in self._folders[name].walk())

    def _likes(self, role: str, keys: Set[str]) -> Iterator[FileInfo]:
        seen: set[str] = set()
        for info in self._below(self.names[role]):
            path = _rest(info.ledger_path)
            key = self._rules.key(path)
            if _suffix(path) in OTHERS or share_of(key) >= self._rules.sample:
                continue
            if key in keys:
                yield info
            elif key not in seen and role == INPUT and _suffix(path) in PICTURES:
                seen.add(key)
                self.unrestored += 1


def matched(files: Mapping[str, Iterable[Row]], rules: Rules) -> Iterator[Row]:
    """One row per restored file: `files` holds the inventory rows of each role, paths relative to their folders.

    Rows have path, key, subset, pair_id, restored_sha256, input_path, input_sha256, truth_path, truth_sha256,
    problem, problem_text, points (ten numbers of the table, or None) and `square` (both pictures are 512 × 512).
    A restored file takes the input of the very same path, else the only one of the same key.
    """
    others = {role: _Index(files[role], rules) for role in (INPUT, TRUTH) if role in files}
    restored = [row for row in files[RESTORED] if _is_meant(row)]
    alike = Counter(rules.key(row["path"]) for row in restored)
    for row in restored:
        key = rules.key(row["path"])
        yield _pair(row, key if alike[key] == 1 else row["path"], others, rules)


def _is_meant(row: Row) -> bool:
    """A file that neither is a picture nor says so by its name is nobody's result."""
    return row["problem"] != "not_an_image" or _suffix(row["path"]) in PICTURES


class _Index:
    """The files of one role, by path and by key."""

    def __init__(self, rows: Iterable[Row], rules: Rules) -> None:
        self._by_path: dict[str, Row] = {}
        self._by_key: dict[str, list[Row]] = {}
        for row in rows:
            self._by_path[row["path"]] = row
            self._by_key.setdefault(rules.key(row["path"]), []).append(row)

    def find(self, path: str, key: str) -> list[Row]:
        """The files that may belong to a restored one; more than one means that its name does not tell."""
        exact = self._by_path.get(path)
        return [exact] if exact else self._by_key.get(key, [])


def _pair(row: Row, key: str, others: Mapping[str, _Index], rules: Rules) -> Row:
    path = row["path"]
    subset, points = rules.subset(path), rules.points(path)
    found = {role: index.find(path, rules.key(path)) for role, index in others.items()}
    problem, text = _problem(row, found, rules)
    one = {role: rows[0] for role, rows in found.items() if len(rows) == 1}
    shas = [row["image_id"], *(one[role]["image_id"] if role in one else "-" for role in (INPUT, TRUTH))]
    return {
        "path": path,
        "key": key,
        "subset": subset,
        "pair_id": _sha256("\n".join([*shas, "-" if points is None else json.dumps(points)])),
        "restored_sha256": row["image_id"],
        **{f"{role}_path": one[role]["path"] if role in one else None for role in (INPUT, TRUTH)},
        **{f"{role}_sha256": one[role]["image_id"] if role in one else None for role in (INPUT, TRUTH)},
        "problem": problem,
        "problem_text": text,
        "points": points,
        "square": all(_is_square(each) for each in (row, one.get(INPUT, row))),
    }


def _problem(row: Row, found: Mapping[str, list[Row]], rules: Rules) -> tuple[str, str]:
    """Why a restored file cannot be measured, as far as names and headers tell; ("", "") where it can."""
    if row["problem"]:
        return row["problem"], row["problem_text"] or row["problem"]
    if rules.protocol and not rules.subset(row["path"]):
        return "no_subset", f"{row['path']} lies in none of {', '.join(rules.protocol.subsets)}"
    for role, rows in found.items():
        if not rows:
            return f"{role}_missing", f"{PROBLEMS[f'{role}_missing']} ({rules.key(row['path'])})"
        if len(rows) > 1:
            return "ambiguous", f"several files go by {rules.key(row['path'])}: {', '.join(r['path'] for r in rows)}"
        if rows[0]["problem"]:
            return rows[0]["problem"], f"{role} {rows[0]['path']}: {rows[0]['problem_text'] or rows[0]['problem']}"
    if rules.placed and rules.points(row["path"]) is None:
        return "no_landmarks", f"{PROBLEMS['no_landmarks']} ({_stem(row['path'].rpartition('/')[2])})"
    return "", ""


def share_of(key: str) -> float:
    """Where a name falls between 0 and 1, the same on every machine: a sample takes what lies below its share."""
    return int(_sha256(key)[:8], 16) / 16**8


def _is_square(row: Row) -> bool:
    return (row["width"], row["height"]) == (512, 512)


def _rest(path: str) -> str:
    return path.partition("/")[2]


def _bare(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{name.rpartition('.')[0] or name}"


def _suffix(path: str) -> str:
    """Without its dot; "" where the name has none."""
    _, dot, suffix = path.rpartition("/")[2].rpartition(".")
    return suffix.lower() if dot else ""


def _stem(name: str) -> str:
    """The name as a data set's table has it: up to the first dot."""
    return decode_name(name).partition(".")[0]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
