"""Object stores and other remote file systems, through fsspec. Knows nothing of what the objects hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, BinaryIO, cast

from infra.storage.base import (
    AddressUnknownError,
    FileInfo,
    PathRefusedError,
    checked_path,
    shown_url,
    told_plainly,
)

_told = partial(told_plainly, of=Exception)
"""Libraries raise more than OSErrors (botocore, for one)."""


@dataclass(frozen=True, slots=True)
class _Entry:
    info: FileInfo
    is_folder: bool


class RemoteFiles:
    """Objects below a URL. One put makes an object whole; a conditional put refuses to overwrite."""

    def __init__(self, url: str, options: Mapping[str, object]) -> None:
        import fsspec

        try:
            self.fs, root = fsspec.core.url_to_fs(url, **{"use_listings_cache": False, **options})
        except (ValueError, ImportError) as error:
            raise AddressUnknownError(f"cannot reach {shown_url(url)}: {error}") from error
        self.root = root.rstrip("/")

    def read(self, path: str) -> bytes:
        with _told("read", path):
            return bytes(self.fs.cat_file(self._at(path)))

    def open(self, path: str) -> BinaryIO:
        with _told("open", path):
            return cast(BinaryIO, self.fs.open(self._at(path), "rb"))

    def write(self, path: str, data: bytes | memoryview, mtime_ns: int | None) -> None:
        """Object stores keep a time of their own."""
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

    def is_folder(self, path: str) -> bool:
        """Object stores have no folders: what has a name, or begins one, will do."""
        with _told("look at", path):
            return bool(self.fs.exists(self._at(path)))

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
            elif entry.is_folder:
                folders.append(self._listing(entry.info.path, wanted))
            else:
                yield entry.info

    def _listing(self, folder: str, wanted: Callable[[str], bool]) -> Iterator[_Entry]:
        place = self._at(folder)
        with _told("list", folder or place):
            found = self.fs.ls(place, detail=True)
        entries = []
        for entry in found:
            if entry["name"] == f"{place}/" and entry["type"] == "directory":
                entries.append(_Entry(_nameless(folder), is_folder=False))
            name = entry["name"].rstrip("/").removeprefix(f"{place}/")
            if name and name != place and wanted(name):
                path = f"{folder}/{name}" if folder else name
                entries.append(_Entry(_listed(path, entry), is_folder=entry["type"] == "directory"))
        return iter(sorted(entries, key=lambda entry: entry.info.path))

    def _at(self, path: str) -> str:
        return f"{self.root}/{path}" if path else self.root


def _nameless(folder: str) -> FileInfo:
    """What stands for all keys below a folder without a name (`folder//x`): no path of ours leads there."""
    text = "keys with nothing between two '/': give them other names, and the next run takes them"
    return FileInfo(f"{folder}//", problem="unreadable", problem_text=text)


def _listed(path: str, entry: Mapping[str, Any]) -> FileInfo:
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
