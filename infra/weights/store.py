"""The weights files on this machine: where they lie, whether they are the right ones, and how to get those missing.

A store is a folder. Runs read from it and never download; `pull` and `add` fill it. Every file is held to its
sha256: the table's where that is known, else the one recorded when the file was first used. Checkpoints in pickle form
are turned into safetensors once, when they arrive. The module knows nothing of stages or networks.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.weights.checkpoint import convert
from infra.weights.download import fetch
from infra.weights.errors import (
    LicenceNotAccepted,
    WeightsCorrupt,
    WeightsError,
    WeightsMissing,
)
from infra.weights.table import PROJECT, Weight, WeightsTable

BLOCK = 1 << 22
AT_ONCE = 4
Progress = Callable[[str, int, int | None], None]
"""Told a name, the bytes that are here and the bytes expected in all (None where unknown)."""


@dataclass(frozen=True)
class WeightsStatus:
    """What is known of one row without reading its file."""

    weight: Weight
    path: Path | None
    bytes: int | None
    verified: bool

    @property
    def present(self) -> bool:
        """Whether the file is here (`path` of the store also says whether it is the right one)."""
        return self.path is not None


@dataclass(frozen=True)
class _Record:
    """What was found when a file was last hashed. `source_sha256` is that of the file it was converted from."""

    bytes: int
    mtime_ns: int
    sha256: str
    source_sha256: str = ""

    @property
    def identity(self) -> str:
        return self.source_sha256 or self.sha256


class WeightsStore:
    """The files of a table in one folder."""

    def __init__(self, folder: str | Path, table: WeightsTable | None = None) -> None:
        """`folder` need not exist before something is pulled or added."""
        self.folder = Path(folder).expanduser()
        self.table = WeightsTable.load() if table is None else table

    def path(self, name: str) -> Path:
        """The verified file. Raises WeightsUnknown, WeightsMissing (with the command that helps) or WeightsCorrupt."""
        self.sha256(name)
        return self._present(self.table[name])

    def sha256(self, name: str) -> str:
        """Identity of the weights: sha256 of the file as published, whatever form it has here. Raises as `path`."""
        row = self.table[name]
        path = self._present(row)
        return self._examine(row, path, trust_record=True).identity

    def status(self, name: str) -> WeightsStatus:
        """Whether the file is here and has been verified since it last changed; hashes nothing."""
        row = self.table[name]
        path = self._find(row)
        if path is None:
            return WeightsStatus(row, None, None, verified=False)
        record = _recorded(path)
        current = record is not None and (record.bytes, record.mtime_ns) == _stamp(path)
        return WeightsStatus(row, path, _stamp(path)[0], verified=bool(row.package) or current)

    def verify(self, names: Iterable[str] | None = None) -> dict[str, WeightsError | None]:
        """Reads every file that is here (or every one of `names`) anew: name → what is wrong, or None."""
        chosen = [name for name in self.table if self.status(name).present] if names is None else list(names)
        return {name: self._problem(name) for name in chosen}

    def pull(
        self,
        names: Iterable[str],
        *,
        from_dir: Path | None = None,
        mirror: str | None = None,
        accept_licences: Collection[str] = (),
        progress: Progress = lambda name, here, total: None,
    ) -> dict[str, Path]:
        """Gets what is missing of `names`, several files at once: name → path.

        `from_dir` is a folder to take files from instead of the network; `mirror` the address of a folder that holds
        them by file name and is asked first. `accept_licences` are keys of the table's `[licences]`. Raises
        LicenceNotAccepted before anything is fetched; otherwise the first error once all others are done.
        """
        missing = [self.table[name] for name in names if not self.status(name).present]
        self._insist_on_licences(missing, accept_licences)
        self.folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            jobs = [pool.submit(self._get, row, from_dir, mirror, progress) for row in missing]
        for job in jobs:
            job.result()
        return {name: self.path(name) for name in names}

    def add(self, name: str, file: Path, *, accept_licences: Collection[str] = ()) -> Path:
        """Copies a file that somebody got by hand into the store, as `name`. Raises as `pull`, or WeightsCorrupt."""
        row = self.table[name]
        if row.package:
            raise WeightsError(f"{name} comes with the package; there is nothing to add")
        self._insist_on_licences([row], accept_licences)
        if not file.exists():
            raise WeightsMissing(f"{file}: expected {row.title}, found nothing there")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._take(row, file)
        return self.path(name)

    def instructions(self, name: str) -> str:
        """What a person has to do to get a file that is missing."""
        row = self.table[name]
        terms = self.table.licence(name)
        accept = f" --accept-licence {row.licence}" if terms.must_accept else ""
        if row.package:
            return "it comes with the package: install that again"
        if row.can_pull:
            return f"run `mpsr models pull {name}{accept}`"
        return f"{row.by_hand.strip()} Then run `mpsr models add {name} FILE{accept}`"

    def _find(self, row: Weight) -> Path | None:
        """The file of a row: the packaged one, else the converted one, else the original."""
        if row.package:
            candidates = [PROJECT / row.package]
        else:
            candidates = [self.folder / file for file in ([row.converted_file] if row.convert else []) + [row.file]]
        return next((path for path in candidates if path.exists()), None)

    def _present(self, row: Weight) -> Path:
        path = self._find(row)
        if path is None:
            folder = (PROJECT / row.package).parent if row.package else self.folder
            raise WeightsMissing(
                f"{row.name}: expected {row.file} ({row.title}; {row.size}; licence {row.licence}) in {folder}, found "
                f"no such file: {self.instructions(row.name)}"
            )
        return path

    def _examine(self, row: Weight, path: Path, *, trust_record: bool) -> _Record:
        """Hashes a file unless it is unchanged since it was last hashed, and holds it to what is expected."""
        record = _recorded(path)
        size, changed = _stamp(path)
        if trust_record and record is not None and (record.bytes, record.mtime_ns) == (size, changed):
            found = record
        else:
            source = record.source_sha256 if record else _noted_source(path)
            found = _Record(size, changed, _sha256(path), source)
            if record is not None and record.sha256 != found.sha256:
                raise _unexpected(path, row, f"{record.sha256}, as when it was first used", found.sha256)
        self._hold(row, path, found.identity)
        if found != record and not row.package:
            _write_record(path, found)
        return found

    def _hold(self, row: Weight, path: Path, sha256: str) -> None:
        if row.sha256 is not None and sha256 != row.sha256:
            raise _unexpected(path, row, f"{row.sha256} ({row.known_from})", sha256)
        if not sha256.startswith(row.sha256_prefix):
            raise _unexpected(path, row, f"{row.sha256_prefix}… (part of its published name)", sha256)

    def _problem(self, name: str) -> WeightsError | None:
        row = self.table[name]
        try:
            self._examine(row, self._present(row), trust_record=False)
        except WeightsError as error:
            return error
        return None

    def _insist_on_licences(self, rows: Iterable[Weight], accepted: Collection[str]) -> None:
        unaccepted = {row.licence: row for row in rows if self.table.licence(row.name).must_accept}
        for key, row in unaccepted.items():
            if key not in accepted:
                terms = self.table.licences[key]
                raise LicenceNotAccepted(
                    f"{row.name} is under {terms.title} (commercial use: {terms.commercial}; {terms.url}): read "
                    f"it, and if you may use it, say so with `--accept-licence {key}`"
                )

    def _get(self, row: Weight, from_dir: Path | None, mirror: str | None, progress: Progress) -> None:
        if from_dir is not None:
            return self._take(row, self._among(row, from_dir))
        urls = [f"{mirror.rstrip('/')}/{row.file}"] if mirror else []
        urls += [*row.sources, *row.mirrors]
        if not urls:
            raise WeightsMissing(f"{row.name}: {self.instructions(row.name)}")
        target = self.folder / row.file
        fetch(
            urls,
            target,
            lambda part: self._hold_new(row, part),
            lambda here, total: progress(row.name, here, total or row.bytes or row.about_bytes),
        )
        return self._settle(row, target)

    def _among(self, row: Weight, folder: Path) -> Path:
        names = [row.file, row.converted_file] if row.convert else [row.file]
        found = [path for name in names for path in sorted(folder.rglob(name))]
        if not found:
            raise WeightsMissing(f"{row.name}: expected {' or '.join(names)} in {folder}, found neither there")
        return found[0]

    def _take(self, row: Weight, file: Path) -> None:
        """Copies, checks, and only then puts in place."""
        arriving = self.folder / f".{row.name}.{os.getpid()}.arriving"
        try:
            if file.is_dir():
                shutil.copytree(file, arriving)
            else:
                shutil.copyfile(file, arriving)
            noted = _noted_source(file) if row.convert else ""
            if noted:
                self._hold_converted(row, file, arriving, noted)
            else:
                self._hold_new(row, arriving)
            target = self.folder / (row.converted_file if noted else row.file)
            self._clear(row)
            arriving.replace(target)
        finally:
            _remove(arriving)
        self._settle(row, target)

    def _hold_new(self, row: Weight, path: Path) -> None:
        size = _stamp(path)[0]
        if row.bytes is not None and size != row.bytes:
            raise WeightsCorrupt(
                f"{path.name}: expected {row.bytes:,} bytes of {row.title}, got {size:,}: get it again"
            )
        self._hold(row, path, _sha256(path))

    def _hold_converted(self, row: Weight, original: Path, copy: Path, source: str) -> None:
        """A file that another store converted: its origin is noted in it, its own hash in that store's record."""
        self._hold(row, original, source)
        record, found = _recorded(original), _sha256(copy)
        if record is not None and record.sha256 != found:
            raise _unexpected(original, row, f"{record.sha256}, as when it was converted", found)

    def _settle(self, row: Weight, path: Path) -> None:
        """Records what has arrived, as safetensors where the row asks for that."""
        if row.convert and path.suffix != ".safetensors":
            path = self._convert(row, path)
        self._examine(row, path, trust_record=False)

    def _convert(self, row: Weight, original: Path) -> Path:
        source = _sha256(original)
        target = self.folder / row.converted_file
        try:
            convert(original, target, expect=row.title, notes={"source_file": row.file, "source_sha256": source})
        except WeightsError:
            original.unlink()
            raise
        original.unlink()
        return target

    def _clear(self, row: Weight) -> None:
        for file in (row.file, row.converted_file):
            _remove(self.folder / file)
            _side_file(self.folder / file).unlink(missing_ok=True)


def open_store(folder: str | Path, table: str | Path | None = None) -> WeightsStore:
    """The store in a folder, with a table of one's own (a path) in place of the package's. Raises WeightsError."""
    return WeightsStore(folder, None if table is None else WeightsTable.load(Path(table)))


def _unexpected(path: Path, row: Weight, expected: str, found: str) -> WeightsCorrupt:
    return WeightsCorrupt(
        f"{path}: expected {row.title} with sha256 {expected}, got {found}: delete the file and get it again; if it "
        f"was replaced on purpose, `mpsr models add {row.name} FILE` records the new one"
    )


def _sha256(path: Path) -> str:
    """Of a file, or of a folder's names and files."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        listing = "".join(f"{_sha256(file)}  {file.relative_to(path).as_posix()}\n" for file in files)
        return hashlib.sha256(listing.encode()).hexdigest()
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _stamp(path: Path) -> tuple[int, int]:
    """Bytes and time of the last change."""
    if path.is_dir():
        stats = [file.stat() for file in path.rglob("*") if file.is_file()]
        return sum(stat.st_size for stat in stats), max((stat.st_mtime_ns for stat in stats), default=0)
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _side_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256.json")


def _recorded(path: Path) -> _Record | None:
    try:
        values: dict[str, Any] = json.loads(_side_file(path).read_text(encoding="utf-8"))
        return _Record(**values)
    except (OSError, ValueError, TypeError):
        return None


def _write_record(path: Path, record: _Record) -> None:
    side = _side_file(path)
    partial = side.with_name(f"{side.name}.{os.getpid()}")
    with suppress(OSError):  # a read-only store works too; it is only hashed more often
        partial.write_text(json.dumps(record.__dict__), encoding="utf-8")
        partial.replace(side)


def _noted_source(path: Path) -> str:
    """The sha256 that `convert` noted of the original, or nothing."""
    if path.suffix != ".safetensors":
        return ""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        with suppress(ValueError, KeyError, TypeError, AttributeError):
            header = json.loads(file.read(length)) if length < BLOCK * 8 else {}
            return str(header["__metadata__"]["source_sha256"])
    return ""


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def weights_row(store: WeightsStore, name: str, *, needed: bool = True) -> dict[str, Any]:
    """All that is known of one file; the shape of `--json`. `needed` is False for what a recipe can do without."""
    status, weight = store.status(name), store.table[name]
    licence = store.table.licence(name)
    return {
        "name": name,
        "title": weight.title,
        "file": weight.file,
        "bytes": weight.bytes or status.bytes,
        "about_bytes": weight.bytes or status.bytes or weight.about_bytes,
        "sha256": weight.sha256,
        "licence": licence.title,
        "licence_name": weight.licence,
        "must_accept": licence.must_accept,
        "commercial": licence.commercial,
        "recipes": list(weight.recipes),
        "from": [*weight.sources, *weight.mirrors],
        "by_hand": weight.by_hand.strip(),
        "needed": needed,
        "present": status.present,
        "verified": status.verified,
        "what_to_do": "" if status.present else store.instructions(name),
    }
