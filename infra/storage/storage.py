"""Every byte that the system reads or writes goes through a Storage: a folder or bucket prefix by URL.

Paths are '/'-separated and relative to the root, spelt as the system spells them; ledger, JSON and report hold
them as `encode_name` writes them. A Storage is cheap to build and to pickle; it connects on first use. It knows
nothing of pictures, ledgers or runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote

from infra.storage.base import (
    FileInfo,
    PathRefusedError,
    StorageError,
    StorageMissingError,
    checked_path,
    is_junk,
    is_temp,
    shown_url,
)
from infra.storage.local import LocalFiles
from infra.storage.remote import RemoteFiles


class Storage:
    """A folder (`/photos`, `file:///photos`) or an object store's prefix (`s3://bucket/photos`, any fsspec URL).

    `options` are handed to the fsspec file system (endpoint, credentials, …); they appear in no message.
    `apart` is a local folder that is never mixed with this one: where a link leads there, `walk` does not enter it
    (results are no originals), and nothing is written (originals are only read).
    All methods raise StorageError or a subclass; see infra.storage.base for the tree.
    """

    def __init__(
        self, url: str | Path, options: Mapping[str, object] | None = None, apart: Storage | None = None
    ) -> None:
        self.options, self.apart = dict(options or {}), apart
        self.is_local, self.url = _sorted_out(str(url))

    def __reduce__(self) -> tuple[type[Storage], tuple[str, dict[str, object], Storage | None]]:
        return Storage, (self.url, self.options, self.apart)

    def __repr__(self) -> str:
        return f"Storage({self.shown_url!r})"

    @property
    def shown_url(self) -> str:
        """The URL without credentials, fit for messages."""
        return shown_url(self.url)

    @cached_property
    def _files(self) -> LocalFiles | RemoteFiles:
        if not self.is_local:
            return RemoteFiles(self.url, self.options)
        return LocalFiles(Path(self.url), Path(self.apart.url) if self.apart and self.apart.is_local else None)

    @property
    def filesystem(self) -> Any:
        """The fsspec file system of a remote storage, for libraries that read through it; None for local files."""
        return None if isinstance(self._files, LocalFiles) else self._files.fs

    def full_path(self, path: str) -> str:
        """Where the path lies, in the spelling that DuckDB and pyarrow take."""
        if isinstance(self._files, LocalFiles):
            return str(self._files.local_path(checked_path(path)))
        return f"{self.url.rstrip('/')}/{checked_path(path)}"

    def local_path(self, path: str = "") -> Path:
        """The path on this machine's disk; raises StorageError on a remote storage."""
        if isinstance(self._files, LocalFiles):
            return self._files.local_path(checked_path(path))
        raise StorageError(f"{self.shown_url} is not on this machine's disk; read it through open_read or read_bytes")

    def read_bytes(self, path: str) -> bytes:
        """The whole file. Raises StorageMissingError, StorageDeniedError."""
        return self._files.read(checked_path(path))

    def open_read(self, path: str) -> BinaryIO:
        """A seekable stream over the file; the caller closes it."""
        return self._files.open(checked_path(path))

    def write_atomic(self, path: str, data: bytes | memoryview, mtime_ns: int | None = None) -> None:
        """Write the whole file or nothing: no reader ever sees a part under the final name.

        Local: temporary file in the same folder, fsync, rename, fsync of the folder. Object stores: one put.
        Replaces what was there. Missing folders are made. Raises StorageFullError and leaves nothing behind, and,
        as all that changes files, PathRefusedError where a folder on the way is a link.
        mtime_ns: modification time that the file shall have, nanoseconds since 1970; object stores set their own.
        """
        self._files.write(_a_file(path), data, mtime_ns)

    def create_new(self, path: str, data: bytes | memoryview) -> None:
        """As `write_atomic`, but raises StorageExistsError (a FileExistsError) where a file of that name is there.

        Of several writers racing for one name exactly one succeeds (local: hard link; S3: `If-None-Match`).
        """
        self._files.create(_a_file(path), data)

    def copy(self, source: str, target: str) -> None:
        """A second name for a write-once file: a hard link on local disks, a copy inside an object store."""
        self._files.copy(_a_file(source), _a_file(target))

    def exists(self, path: str) -> bool:
        """Whether a file (or folder) lies there."""
        try:
            self._files.info(checked_path(path))
        except StorageMissingError:
            return False
        return True

    def is_folder(self, path: str = "") -> bool:
        """Whether files can be looked for there; in an object store, whether there is anything of that name."""
        return self._files.is_folder(checked_path(path))

    def size(self, path: str) -> int:
        """Bytes of the file. Raises StorageMissingError."""
        return self._files.info(checked_path(path)).bytes or 0

    def info(self, path: str) -> FileInfo:
        """Size, time and tag of one file. Raises StorageMissingError."""
        return self._files.info(checked_path(path))

    def walk(self, prefix: str = "") -> Iterator[FileInfo]:
        """Every file below the prefix, streaming, depth first, each folder sorted by name.

        Links are followed; one that loops or leads `apart` is reported with problem 'symlink_loop', one that leads
        nowhere with 'broken_link', and what cannot be looked at (no permission, a pipe) with 'unreadable'. Litter of
        operating systems (Thumbs.db, .DS_Store, @eaDir, …) is passed over. Raises StorageMissingError where the prefix
        itself is not there.
        """
        return self._files.walk(checked_path(prefix), lambda name: not is_junk(name))

    def leftovers(self, prefix: str = "") -> Iterator[FileInfo]:
        """Temporary files of writes that a crash cut short. One may belong to a write in progress: look at its age."""
        found = self._files.walk(checked_path(prefix), lambda name: is_temp(name) or not is_junk(name))
        return (info for info in found if is_temp(info.path.rpartition("/")[2]))

    def delete(self, path: str) -> None:
        """Delete one file; nothing happens where it is gone already."""
        self._files.delete(_a_file(path))

    def delete_tree(self, path: str) -> None:
        """Delete a folder and all below it; nothing happens where it is gone already. Refuses the root."""
        self._files.delete_tree(_a_file(path))

    def free_bytes(self) -> int | None:
        """Bytes that can still be written; None where the storage does not tell."""
        return self._files.free_bytes()


def _a_file(path: str) -> str:
    if not path:
        raise PathRefusedError("the empty path is the root itself: expected the name of something below it")
    return checked_path(path)


def _sorted_out(url: str) -> tuple[bool, str]:
    """(is local, absolute folder or URL). Relative folders are made absolute: workers may stand elsewhere."""
    scheme, separator, rest = url.partition("://")
    if separator and scheme not in ("file", "local"):
        return False, url
    folder = Path(unquote(rest) if separator else url).expanduser()
    return True, str(folder.absolute())
