"""The weights files on this machine: where they lie, whether they are the right ones, and how to get those missing.

A store is a folder. Runs read from it and never download; `pull` and `add` fill it. Every file is held to its
sha256: the table's where that is known, else the one recorded when the file was first used. Checkpoints in pickle form
are turned into safetensors once, when they arrive. The module knows nothing of stages or networks.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from infra.weights.checkpoint import convert
from infra.weights.download import fetch
from infra.weights.errors import LicenceNotAccepted, WeightsCorrupt, WeightsError, WeightsMissing
from infra.weights.hashes import Hashed, noted_source, recorded, sha256_of, side_file, stamp, write_record
from infra.weights.table import PROJECT, Weight, WeightsTable

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
        known = recorded(path)
        verified = bool(row.package) or (known is not None and known.is_of(path))
        return WeightsStatus(row, path, stamp(path)[0], verified)

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

    def _examine(self, row: Weight, path: Path, *, trust_record: bool) -> Hashed:
        """Hashes a file unless it is unchanged since it was last hashed, and holds it to what is expected."""
        known = recorded(path)
        if trust_record and known is not None and known.is_of(path):
            found = known
        else:
            size, changed = stamp(path)
            source = known.source_sha256 if known else noted_source(path)
            found = Hashed(bytes=size, mtime_ns=changed, sha256=sha256_of(path), source_sha256=source)
            if known is not None and known.sha256 != found.sha256:
                raise _unexpected(path, row, f"{known.sha256}, as when it was first used", found.sha256)
        self._hold(row, path, found.identity)
        if found != known and not row.package:
            write_record(path, found)
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
            noted = noted_source(file) if row.convert else ""
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
        size = stamp(path)[0]
        if row.bytes is not None and size != row.bytes:
            raise WeightsCorrupt(
                f"{path.name}: expected {row.bytes:,} bytes of {row.title}, got {size:,}: get it again"
            )
        self._hold(row, path, sha256_of(path))

    def _hold_converted(self, row: Weight, original: Path, copy: Path, source: str) -> None:
        """A file that another store converted: its origin is noted in it, its own hash in that store's record."""
        self._hold(row, original, source)
        known, found = recorded(original), sha256_of(copy)
        if known is not None and known.sha256 != found:
            raise _unexpected(original, row, f"{known.sha256}, as when it was converted", found)

    def _settle(self, row: Weight, path: Path) -> None:
        """Records what has arrived, as safetensors where the row asks for that."""
        if row.convert and path.suffix != ".safetensors":
            path = self._convert(row, path)
        self._examine(row, path, trust_record=False)

    def _convert(self, row: Weight, original: Path) -> Path:
        source = sha256_of(original)
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
            side_file(self.folder / file).unlink(missing_ok=True)


def open_store(folder: str | Path, table: str | Path | None = None) -> WeightsStore:
    """The store in a folder, with a table of one's own (a path) in place of the package's. Raises WeightsError."""
    return WeightsStore(folder, None if table is None else WeightsTable.load(Path(table)))


def _unexpected(path: Path, row: Weight, expected: str, found: str) -> WeightsCorrupt:
    return WeightsCorrupt(
        f"{path}: expected {row.title} with sha256 {expected}, got {found}: delete the file and get it again; if it "
        f"was replaced on purpose, `mpsr models add {row.name} FILE` records the new one"
    )


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
