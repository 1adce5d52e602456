"""Local files: atomic writes that no link leads astray, and a walk that survives loops and forbidden folders.

What is written, deleted or given a second name is reached from the root one folder at a time, each opened without
following links: a link below the root, whenever it appeared, leads nobody to somebody else's files. Reading follows
links. Knows nothing of URLs.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from infra.storage.base import (
    TEMP_PREFIX,
    TEMP_SUFFIX,
    FileInfo,
    PathRefusedError,
    Problem,
    StorageError,
    encode_name,
    told_plainly,
)

_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL


class LocalFiles:
    """Files below a folder. Paths are checked by the caller. `apart`: walks do not enter it, writes do not reach it."""

    def __init__(self, root: Path, apart: Path | None = None) -> None:
        self.root, self.apart = root, apart
        self._real_root = root.resolve()  # a root that is exchanged for a link later is not followed

    def local_path(self, path: str) -> Path:
        return self.root / path if path else self.root

    def read(self, path: str) -> bytes:
        with told_plainly("read", path):
            return self.local_path(path).read_bytes()

    def open(self, path: str) -> BinaryIO:
        with told_plainly("open", path):
            return self.local_path(path).open("rb")

    def write(self, path: str, data: bytes | memoryview, mtime_ns: int | None) -> None:
        def replace(temp: str, name: str, at: int) -> None:
            if mtime_ns is not None:
                os.utime(temp, ns=(mtime_ns, mtime_ns), dir_fd=at)
            os.replace(temp, name, src_dir_fd=at, dst_dir_fd=at)

        with told_plainly("write", path):
            self._publish(path, data, replace)

    def create(self, path: str, data: bytes | memoryview) -> None:
        with told_plainly("create", path):
            self._publish(path, data, lambda temp, name, at: _link(temp, name, at, at))

    def copy(self, source: str, target: str) -> None:
        with (
            told_plainly("copy", source),
            self._parent(source) as (from_folder, old),
            self._parent(target, make=True) as (folder, new),
        ):
            _link(old, new, from_folder, folder)
            os.fsync(folder)

    def info(self, path: str) -> FileInfo:
        with told_plainly("look at", path):
            found = self.local_path(path).stat()
            return FileInfo(path, found.st_size, found.st_mtime_ns)

    def is_folder(self, path: str) -> bool:
        with told_plainly("look at", path):
            return self.local_path(path).is_dir()

    def delete(self, path: str) -> None:
        with told_plainly("delete", path), suppress(FileNotFoundError), self._parent(path) as (folder, name):
            os.unlink(name, dir_fd=folder)

    def delete_tree(self, path: str) -> None:
        with told_plainly("delete", path), suppress(FileNotFoundError), self._parent(path) as (folder, name):
            os.close(_inner(folder, name, path))
            shutil.rmtree(name, dir_fd=folder)

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

    def _publish(self, path: str, data: bytes | memoryview, into_place: Callable[[str, str, int], object]) -> None:
        with self._parent(path, make=True) as (folder, name):
            temp = f"{TEMP_PREFIX}{secrets.token_hex(8)}{TEMP_SUFFIX}"
            try:
                _write_through(temp, data, folder)
                into_place(temp, name, folder)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(temp, dir_fd=folder)
            os.fsync(folder)

    @contextmanager
    def _parent(self, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """The folder that holds the path, opened, and the last name. With `make` missing folders are made.

        Raises PathRefusedError where a link is on the way.
        """
        *folders, name = path.split("/")
        at = self._open_root(make)
        try:
            for depth, folder in enumerate(folders, 1):
                if make:
                    _make_folder(folder, at)
                inner = _inner(at, folder, "/".join(folders[:depth]))
                os.close(at)
                at = inner
            yield at, name
        finally:
            os.close(at)

    def _open_root(self, make: bool) -> int:
        if self.apart and _overlap(self._real_root, self.apart.resolve()):
            raise PathRefusedError(f"nothing is written to {self.root}: it leads into {self.apart}, which is only read")
        if make and not self._real_root.is_dir():
            _make_root(self._real_root)
        return _inner(None, str(self._real_root), str(self.root))


def _inner(at: int | None, folder: str, shown: str) -> int:
    """The folder of that name, opened; `at` is the opened folder above. Raises PathRefusedError for a link."""
    try:
        return os.open(folder, _FOLDER, dir_fd=at)
    except OSError:
        if stat.S_ISLNK(os.stat(folder, dir_fd=at, follow_symlinks=False).st_mode):
            raise PathRefusedError(
                f"nothing is written or deleted through {encode_name(shown)}: it is a link to "
                f"{encode_name(os.readlink(folder, dir_fd=at))}, and what lies there may be somebody's originals; "
                "put a folder in its place and run again"
            ) from None
        raise


def _write_through(temp: str, data: bytes | memoryview, folder: int) -> None:
    descriptor = os.open(temp, _NEW_FILE, 0o666, dir_fd=folder)
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        rest = memoryview(data).cast("B")
        while len(rest):
            rest = rest[file.write(rest) :]
        os.fsync(descriptor)


def _link(old: str, new: str, from_folder: int, folder: int) -> None:
    try:
        os.link(old, new, src_dir_fd=from_folder, dst_dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        raise StorageError(
            f"cannot create {encode_name(new)} without risk of overwriting: the file system of the workspace has no "
            "hard links; put the workspace on another one (ext4, XFS, APFS, NTFS, NFS)"
        ) from error


def _make_folder(folder: str, at: int) -> None:
    """Create the folder so that it outlives a power cut."""
    try:
        os.mkdir(folder, dir_fd=at)
    except FileExistsError:
        return
    os.fsync(at)


def _make_root(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_root(folder.parent)
    folder.mkdir(exist_ok=True)
    above = os.open(folder.parent, os.O_RDONLY)
    try:
        os.fsync(above)
    finally:
        os.close(above)


def _overlap(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


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
