"""What a weights file is known by: its sha256, and the record of it that lies beside the file.

Knows nothing of tables or where files come from.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

from infra.facts import Record

BLOCK = 1 << 22
LONGEST_HEADER = 1 << 25


class Hashed(Record):
    """What was found when a file was last hashed. `source_sha256` is that of the file it was converted from."""

    bytes: int
    mtime_ns: int
    sha256: str
    source_sha256: str = ""

    @property
    def identity(self) -> str:
        """The sha256 of the file as published."""
        return self.source_sha256 or self.sha256

    def is_of(self, path: Path) -> bool:
        """Whether the file has neither grown nor changed since."""
        return (self.bytes, self.mtime_ns) == stamp(path)


def sha256_of(path: Path) -> str:
    """Of a file, or of a folder's names and files."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        listing = "".join(f"{sha256_of(file)}  {file.relative_to(path).as_posix()}\n" for file in files)
        return hashlib.sha256(listing.encode()).hexdigest()
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def stamp(path: Path) -> tuple[int, int]:
    """Bytes and time of the last change (ns), of a file or of all files in a folder."""
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    stats = [file.stat() for file in files]
    return sum(stat.st_size for stat in stats), max((stat.st_mtime_ns for stat in stats), default=0)


def side_file(path: Path) -> Path:
    """Where the record of a file lies."""
    return path.with_name(f"{path.name}.sha256.json")


def recorded(path: Path) -> Hashed | None:
    """The record beside a file, or None where there is none that can be read."""
    try:
        return Hashed.model_validate_json(side_file(path).read_bytes())
    except (OSError, ValueError):
        return None


def write_record(path: Path, hashed: Hashed) -> None:
    """Writes the record beside a file; atomically."""
    side = side_file(path)
    partial = side.with_name(f"{side.name}.{os.getpid()}")
    with suppress(OSError):  # a read-only store works too; it is only hashed more often
        partial.write_text(hashed.model_dump_json(), encoding="utf-8")
        partial.replace(side)


def noted_source(path: Path) -> str:
    """The sha256 of the original that a conversion to safetensors noted in the file's header, or nothing."""
    if path.suffix != ".safetensors":
        return ""
    with path.open("rb") as file, suppress(ValueError, KeyError, TypeError):
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length)) if length < LONGEST_HEADER else {}
        return str(header["__metadata__"]["source_sha256"])
    return ""
