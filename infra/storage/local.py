"""Local files: atomic writes, and a walk that survives loops and forbidden folders. Knows nothing of URLs."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from infra.storage.base import TEMP_PREFIX, TEMP_SUFFIX, FileInfo, Problem, StorageError, told_plainly

_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class LocalFiles:
    """Files below a folder. Paths are checked by the caller. A walk does not enter the folder `apart`."""

    def __init__(self, root: Path, apart: Path | None = None) -> None:
        self.root, self.apart = root, apart

    def local_path(self, path: str) -> Path:
        return self.root / path if path else self.root

    def read(self, path: str) -> bytes:
        with told_plainly("read", path):
            return self.local_path(path).read_bytes()

    def open(self, path: str) -> BinaryIO:
        with told_plainly("open", path):
            return self.local_path(path).open("rb")

    def write(self, path: str, data: bytes | memoryview, mtime_ns: int | None) -> None:
        def replace(temp: Path, final: Path) -> None:
            if mtime_ns is not None:
                os.utime(temp, ns=(mtime_ns, mtime_ns))
            temp.replace(final)

        with told_plainly("write", path):
            self._publish(path, data, replace)

    def create(self, path: str, data: bytes | memoryview) -> None:
        with told_plainly("create", path):
            self._publish(path, data, lambda temp, final: _link(temp, final))

    def copy(self, source: str, target: str) -> None:
        with told_plainly("copy", source):
            final = self.local_path(target)
            _make_folder(final.parent)
            _link(self.local_path(source), final)
            _sync_folder(final.parent)

    def info(self, path: str) -> FileInfo:
        with told_plainly("look at", path):
            found = self.local_path(path).stat()
            return FileInfo(path, found.st_size, found.st_mtime_ns)

    def is_folder(self, path: str) -> bool:
        with told_plainly("look at", path):
            return self.local_path(path).is_dir()

    def delete(self, path: str) -> None:
        with told_plainly("delete", path):
            self.local_path(path).unlink(missing_ok=True)

    def delete_tree(self, path: str) -> None:
        with told_plainly("delete", path):
            if self.local_path(path).exists():
                shutil.rmtree(self.local_path(path))

    def free_bytes(self) -> int | None:
        existing = next(p for p in (self.root, *self.root.parents) if p.exists())
        return shutil.disk_usage(existing).free

    def walk(self, prefix: str, wanted: Callable[[str], bool]) -> Iterator[FileInfo]:
        """Depth first, each folder sorted by name; the chain of folders above is what a loop is known by."""
        with told_plainly("list", prefix or str(self.root)):
            chain = [_identity(self.local_path(prefix).stat())]
            folders = [self._names(prefix, wanted)]
        while folders:
            path = next(folders[-1], None)
            if path is None:
                folders.pop()
                chain.pop()
                continue
            try:
                found = self.local_path(path).stat()
                if not stat.S_ISDIR(found.st_mode):
                    yield _described(path, found)
                elif _identity(found) in chain:
                    yield _loop(path)
                elif self._lies_apart(path):
                    yield _problem(path, "symlink_loop", "a symbolic link that leads to the results, not to originals")
                else:
                    folders.append(self._names(path, wanted))
                    chain.append(_identity(found))
            except OSError as error:
                if error.errno == errno.ELOOP:
                    yield _loop(path)
                elif error.errno == errno.ENOENT and self.local_path(path).is_symlink():
                    yield _problem(
                        path, "broken_link", f"a link to {self.local_path(path).readlink()}, where nothing lies"
                    )
                elif os.path.lexists(self.local_path(path)):  # else it has vanished since its folder was listed
                    yield _unreadable(path, error)

    def _lies_apart(self, folder: str) -> bool:
        return self.apart is not None and self.local_path(folder).resolve().is_relative_to(self.apart.resolve())

    def _names(self, folder: str, wanted: Callable[[str], bool]) -> Iterator[str]:
        names = os.listdir(self.local_path(folder))  # noqa: PTH208 - a folder may hold a million: no Path for each
        names = sorted(filter(wanted, names))
        return iter([f"{folder}/{name}" for name in names] if folder else names)

    def _publish(self, path: str, data: bytes | memoryview, into_place: Callable[[Path, Path], object]) -> None:
        final = self.local_path(path)
        _make_folder(final.parent)
        temp = final.parent / f"{TEMP_PREFIX}{secrets.token_hex(8)}{TEMP_SUFFIX}"
        try:
            _write_through(temp, data)
            into_place(temp, final)
        finally:
            temp.unlink(missing_ok=True)
        _sync_folder(final.parent)


def _write_through(temp: Path, data: bytes | memoryview) -> None:
    descriptor = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        rest = memoryview(data).cast("B")
        while len(rest):
            rest = rest[file.write(rest) :]
        os.fsync(descriptor)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        raise StorageError(
            f"cannot create {target.name} without risk of overwriting: the file system of {target.parent} has no "
            "hard links; put the workspace on another one (ext4, XFS, APFS, NTFS, NFS)"
        ) from error


def _make_folder(folder: Path) -> None:
    """Create the folder and its parents so that they outlive a power cut."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _described(path: str, found: os.stat_result) -> FileInfo:
    if stat.S_ISREG(found.st_mode):
        return FileInfo(path, found.st_size, found.st_mtime_ns)
    return _problem(path, "unreadable", "a pipe, socket or device, not a file")


def _loop(path: str) -> FileInfo:
    return _problem(path, "symlink_loop", "a symbolic link that leads back to a folder above it, or to itself")


def _unreadable(path: str, error: OSError) -> FileInfo:
    return _problem(path, "unreadable", (error.strerror or str(error)).lower())


def _problem(path: str, code: Problem, text: str) -> FileInfo:
    return FileInfo(path, problem=code, problem_text=text)
