"""Object stores and other remote file systems, through fsspec. Knows nothing of what the objects hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, BinaryIO, cast

from infra.storage.base import FileInfo, PathRefusedError, StorageError, checked_path, told_plainly


class RemoteFiles:
    """Objects below a URL. One put makes an object whole; a conditional put refuses to overwrite."""

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        import fsspec

        with _told(f"reach {url}", ""):
            self.fs, root = fsspec.core.url_to_fs(url, **{"use_listings_cache": False, **options})
        self.root = root.rstrip("/")

    def read(self, path: str) -> bytes:
        with _told("read", path):
            return bytes(self.fs.cat_file(self._at(path)))

    def open(self, path: str) -> BinaryIO:
        with _told("open", path):
            return cast(BinaryIO, self.fs.open(self._at(path), "rb"))

    def write(self, path: str, data: bytes | memoryview) -> None:
        with _told("write", path):
            self.fs.pipe_file(self._at(path), bytes(data))

    def create(self, path: str, data: bytes | memoryview) -> None:
        with _told("create", path):
            self.fs.pipe_file(self._at(path), bytes(data), mode="create")

    def copy(self, source: str, target: str) -> None:
        with _told("copy", source):
            self.fs.cp_file(self._at(source), self._at(target))

    def info(self, path: str) -> FileInfo:
        with _told("look at", path):
            return _described(path, self.fs.info(self._at(path)))

    def delete(self, path: str) -> None:
        with _told("delete", path):
            if self.fs.exists(self._at(path)):
                self.fs.rm_file(self._at(path))

    def delete_tree(self, path: str) -> None:
        with _told("delete", path):
            if self.fs.exists(self._at(path)):
                self.fs.rm(self._at(path), recursive=True)

    def free_bytes(self) -> int | None:
        return None

    def walk(self, prefix: str, wanted: Callable[[str], bool]) -> Iterator[FileInfo]:
        """Depth first, each folder sorted by name, one listing per folder."""
        folders = [self._listing(prefix, wanted)]
        while folders:
            entry = next(folders[-1], None)
            if entry is None:
                folders.pop()
            elif entry["type"] == "directory":
                folders.append(self._listing(entry["path"], wanted))
            else:
                yield _listed(entry)

    def _listing(self, folder: str, wanted: Callable[[str], bool]) -> Iterator[dict[str, Any]]:
        place = self._at(folder)
        with _told("list", folder or place):
            found = self.fs.ls(place, detail=True)
        entries = []
        for entry in found:
            name = entry["name"].rstrip("/").removeprefix(f"{place}/")
            if name and name != place and wanted(name):
                entries.append({**entry, "path": f"{folder}/{name}" if folder else name})
        return iter(sorted(entries, key=lambda entry: str(entry["path"])))

    def _at(self, path: str) -> str:
        return f"{self.root}/{path}" if path else self.root


def _listed(entry: Mapping[str, Any]) -> FileInfo:
    path = str(entry["path"])
    try:
        checked_path(path)
    except PathRefusedError as error:
        return FileInfo(path, problem="unreadable", problem_text=str(error))
    return _described(path, entry)


def _described(path: str, entry: Mapping[str, Any]) -> FileInfo:
    stamp = next((entry[key] for key in ("LastModified", "mtime", "last_modified", "created") if entry.get(key)), None)
    etag = str(entry.get("ETag") or entry.get("etag") or "").strip('"')
    return FileInfo(path, entry.get("size"), _nanoseconds(stamp), etag or None)


def _nanoseconds(stamp: datetime | float | str | None) -> int | None:
    if isinstance(stamp, str):
        stamp = datetime.fromisoformat(stamp)
    if isinstance(stamp, datetime):
        aware = stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)
        return int(aware.timestamp() * 1_000_000) * 1_000
    return None if stamp is None else int(stamp * 1_000_000_000)


@contextmanager
def _told(action: str, where: str) -> Iterator[None]:
    """As `told_plainly`, for libraries whose errors are no OSError (botocore's, for one)."""
    try:
        with told_plainly(action, where):
            yield
    except OSError:
        raise
    except Exception as error:
        raise StorageError(f"cannot {action} {where}: {type(error).__name__}: {error}") from error
