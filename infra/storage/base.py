"""What every kind of storage shares: errors, names, and which paths are refused. Touches no disk.

StorageError (an OSError)  exit code 3
├── StorageMissingError    nothing lies there            (also a FileNotFoundError)
├── StorageExistsError     something lies there already  (also a FileExistsError)
├── StorageDeniedError     no permission                 (also a PermissionError)
├── StorageFullError       no space, quota or file-size limit reached
├── AddressUnknownError    no file system is known here for such a URL; exit code 2
└── PathRefusedError       the path would leave the root, or a link leads out of it (also a ValueError)
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote_to_bytes

from infra.problems import RESUME, ForPeople

Problem = Literal["symlink_loop", "broken_link", "unreadable"]

TEMP_PREFIX, TEMP_SUFFIX = ".mpsr-", ".tmp"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FULL_CODES = {"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded"}
"""What object stores answer, for which there is no errno."""
_NOT_ASCII_SAFE = re.compile("[%\udc80-\udcff]")
_JUNK = {
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    ".ds_store",
    ".apdisk",
    "@eadir",
    "#recycle",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "__macosx",
    ".appledouble",
    ".spotlight-v100",
    ".trashes",
    ".fseventsd",
    ".temporaryitems",
    ".documentrevisions-v100",
}


class StorageError(ForPeople, OSError):
    """Something about files went wrong; the message says what, where, and what to do."""

    hint = RESUME


class StorageMissingError(StorageError, FileNotFoundError):
    """Nothing lies at the path."""

    hint = ""


class StorageExistsError(StorageError, FileExistsError):
    """Something lies at the path already, and it must not be overwritten."""

    hint = ""


class StorageDeniedError(StorageError, PermissionError):
    """The system refuses access."""


class StorageFullError(StorageError):
    """No space is left, or a quota or file-size limit is reached."""


class AddressUnknownError(StorageError):
    """No file system is known here for such a URL, or its package is not installed."""

    exit_code = 2
    hint = ""


class PathRefusedError(StorageError, ValueError):
    """The path would leave the storage's root, by its spelling or through a link."""

    hint = ""


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One file as its storage describes it; nothing of its content is read."""

    path: str
    """'/'-separated, relative to the root, as the system spells it (surrogate escapes for bytes not UTF-8)."""
    bytes: int | None = None
    mtime_ns: int | None = None
    etag: str | None = None
    """An object store's version tag, without quotes; None for local files."""
    problem: Problem | None = None
    problem_text: str | None = None

    @property
    def ledger_path(self) -> str:
        """The path as ledger, JSON and report write it."""
        return encode_name(self.path)


def encode_name(name: str) -> str:
    """Percent-encode '%' and the bytes that are not UTF-8 (surrogate escapes); all else stays readable."""
    return _NOT_ASCII_SAFE.sub(lambda match: f"%{ord(match[0]) & 0xFF:02X}", name)


def decode_name(name: str) -> str:
    """The inverse of `encode_name`: `decode_name(encode_name(x)) == x` for every name a system can give."""
    return unquote_to_bytes(name).decode("utf-8", "surrogateescape") if "%" in name else name


def checked_path(path: str) -> str:
    """The path itself; raises PathRefusedError where it is absolute, has an empty, '.' or '..' part, or a NUL.

    The empty path is the root.
    """
    if path and ("\0" in path or any(part in ("", ".", "..") for part in path.split("/"))):
        raise PathRefusedError(
            f"path {encode_name(path)!r} refused: expected a path below the root, parts separated by single '/', "
            "without '.' or '..'"
        )
    return path


def is_junk(name: str) -> bool:
    """Whether a file or folder of this name is a system's own litter rather than somebody's file."""
    return name.lower() in _JUNK or name.startswith("._") or is_temp(name)


def is_temp(name: str) -> bool:
    """Whether the name is one that an unfinished write of ours leaves behind."""
    return name.startswith(TEMP_PREFIX) and name.endswith(TEMP_SUFFIX)


def shown_url(url: str) -> str:
    """A URL without credentials and without a query, which may be a signature; fit for messages."""
    return encode_name(re.sub(r"://[^/?#]*@", "://", url).partition("?")[0] if "://" in url else url)


@contextmanager
def told_plainly(action: str, where: str, of: type[Exception] = OSError) -> Iterator[None]:
    """Turn whatever the system raises (or a library, `of` another kind) into a StorageError that names the action, the
    place and a way out."""
    try:
        yield
    except StorageError:
        raise
    except of as error:
        raise _plainly(f"cannot {action} {encode_name(where)}", error) from error


def _plainly(subject: str, error: Exception) -> StorageError:
    if reason := _no_room(error):
        return StorageFullError(f"{subject}: {reason}; free some space or raise the limit")
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return StorageMissingError(f"{subject}: nothing is there")
    if isinstance(error, FileExistsError):
        return StorageExistsError(f"{subject}: it exists already")
    if isinstance(error, PermissionError):
        return StorageDeniedError(f"{subject}: no permission; check its owner and mode, or the credentials")
    if isinstance(error, OSError):
        return StorageError(f"{subject}: {error.strerror or error}")
    return StorageError(f"{subject}: {type(error).__name__}: {error}")


def _no_room(error: BaseException | None) -> str:
    """What says, in an error or in what led to it, that nothing more can be written; libraries wrap such errors."""
    while error is not None and not isinstance(error, StorageError):
        if isinstance(error, OSError) and error.errno in _FULL:
            return error.strerror or str(error)
        answer = getattr(error, "response", None)  # of botocore's ClientError
        code = answer.get("Error", {}).get("Code") if isinstance(answer, Mapping) else None
        if code in _FULL_CODES:
            return str(error) or str(code)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return ""
