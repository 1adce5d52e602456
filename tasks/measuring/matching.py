"""Which restored picture belongs to which input (and truth): by name, and refused where the name is not enough.

It sees inventory rows (see tasks.scan) and names, never pixels; it knows nothing of ledgers, metrics or runs.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import BinaryIO

from infra.ledger import FileRow
from infra.storage import FileInfo, Storage, decode_name
from tasks.measuring.challenge import Placed, Protocol
from tasks.measuring.files import PROBLEMS
from tasks.measuring.pairs import INPUT, RESTORED, TRUTH, Pair
from tasks.pictures import SUFFIXES

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
            elif key not in seen and role == INPUT and _suffix(path) in SUFFIXES:
                seen.add(key)
                self.unrestored += 1


def matched(files: Mapping[str, Iterable[FileRow]], rules: Rules) -> Iterator[Pair]:
    """One pair per restored file: `files` holds the inventory rows of each role, paths relative to their folders.

    A restored file takes the input of the very same path, else the only one of the same key.
    """
    others = {role: _Index(files[role], rules) for role in (INPUT, TRUTH) if role in files}
    restored = [row for row in files[RESTORED] if _is_meant(row)]
    alike = Counter(rules.key(row.path) for row in restored)
    for row in restored:
        key = rules.key(row.path)
        yield _pair(row, key if alike[key] == 1 else row.path, others, rules)


def _is_meant(row: FileRow) -> bool:
    """A file that neither is a picture nor says so by its name is nobody's result."""
    return row.problem not in ("not_an_image", "sidecar") or _suffix(row.path) in SUFFIXES


class _Index:
    """The files of one role, by path and by key."""

    def __init__(self, rows: Iterable[FileRow], rules: Rules) -> None:
        self._by_path: dict[str, FileRow] = {}
        self._by_key: dict[str, list[FileRow]] = {}
        for row in rows:
            self._by_path[row.path] = row
            self._by_key.setdefault(rules.key(row.path), []).append(row)

    def find(self, path: str, key: str) -> list[FileRow]:
        """The files that may belong to a restored one; more than one means that its name does not tell."""
        exact = self._by_path.get(path)
        return [exact] if exact else self._by_key.get(key, [])


def _pair(row: FileRow, key: str, others: Mapping[str, _Index], rules: Rules) -> Pair:
    found = {role: index.find(row.path, rules.key(row.path)) for role, index in others.items()}
    problem, text = _problem(row, found, rules)
    given, truth = (_only(found.get(role, [])) for role in (INPUT, TRUTH))
    points = rules.points(row.path)
    shas = [row.image_id, *(other.image_id if other else "-" for other in (given, truth))]
    return Pair(
        path=row.path,
        key=key,
        subset=rules.subset(row.path),
        pair_id=_sha256("\n".join([*shas, "-" if points is None else json.dumps(points)])),
        restored_sha256=row.image_id,
        input_path=given.path if given else None,
        input_sha256=given.image_id if given else None,
        truth_path=truth.path if truth else None,
        truth_sha256=truth.image_id if truth else None,
        problem=problem,
        problem_text=text,
        points=points,
        square=_is_square(row) and _is_square(given or row),
    )


def _only(rows: Sequence[FileRow]) -> FileRow | None:
    return rows[0] if len(rows) == 1 else None


def _problem(row: FileRow, found: Mapping[str, list[FileRow]], rules: Rules) -> tuple[str, str]:
    """Why a restored file cannot be measured, as far as names and headers tell; ("", "") where it can."""
    key = rules.key(row.path)
    if row.problem:
        return row.problem, row.problem_text or row.problem
    if rules.protocol and not rules.subset(row.path):
        return "no_subset", f"{row.path} lies in none of {', '.join(rules.protocol.subsets)}"
    for role, rows in found.items():
        if not rows:
            return f"{role}_missing", f"{PROBLEMS[f'{role}_missing']} ({key})"
        if len(rows) > 1:
            return "ambiguous", f"several files go by {key}: {', '.join(other.path for other in rows)}"
        if problem := rows[0].problem:
            return problem, f"{role} {rows[0].path}: {rows[0].problem_text or problem}"
    if rules.placed and rules.points(row.path) is None:
        return "no_landmarks", f"{PROBLEMS['no_landmarks']} ({_stem(row.path.rpartition('/')[2])})"
    return "", ""


def share_of(key: str) -> float:
    """Where a name falls between 0 and 1, the same on every machine: a sample takes what lies below its share."""
    return int(_sha256(key)[:8], 16) / 16**8


def _is_square(row: FileRow) -> bool:
    return (row.width, row.height) == (512, 512)


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
