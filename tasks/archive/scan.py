"""Looking at an archive: every file gets one inventory row, read no more than it takes to know what it is.

A file whose size and time (and tag) are those of the last scan is not opened. It knows storages, headers and
reason codes; it writes nothing and knows nothing of ledgers or runs.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO, Protocol

from infra.storage import FileInfo, StorageMissingError
from tasks.pictures import DecodeError, Header, Limits, read_header

Row = dict[str, Any]
IN_MEMORY = 64 << 20
"""Files up to this many bytes are read once, into memory; larger ones are streamed and their header read again."""
CHUNK = 1 << 20
LOOK_AGAIN = {"too_large", "unsupported_format"}
"""Problems that a changed setting or installation may cure: the header is read again, the content not."""
READ_AGAIN = {"unreadable", "excluded", "changed_while_running", "symlink_loop"}
"""Problems with which nothing was read, so that there is nothing to reuse."""


class Source(Protocol):
    """What a scan needs of a storage (see infra.storage.Storage)."""

    def walk(self, prefix: str = "") -> Iterator[FileInfo]: ...

    def open_read(self, path: str) -> BinaryIO: ...


def scan_archive(
    source: Source,
    known: Mapping[str, Mapping[str, Any]],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    limits: Limits | None = None,
    threads: int = 8,
) -> Iterator[Row]:
    """Yields an inventory row for every file that is new or different, then one for every file that is gone.

    known: the latest row of each ledger path; a file that would get the same row again yields none.
    include, exclude: globs (see `matcher`); a file must match one of `include`, if there are any, and none of
    `exclude`; the others get the problem `excluded` and are not opened.
    Rows come in the order of the walk and hold path, image_id, bytes, mtime_ns, etag, format, width, height (as
    stored), mode, problem, problem_text and present. Raises StorageMissingError where the source itself is missing.
    """
    look = _Look(source, limits or Limits())
    wanted, unwanted = matcher(include), matcher(exclude)
    gone = {path for path, row in known.items() if row.get("present", True)}
    closed: list[str] = []
    with ThreadPoolExecutor(threads, thread_name_prefix="scan") as pool:
        waiting: deque[Future[Row | None]] = deque()
        for info in source.walk(""):
            path = info.ledger_path
            gone.discard(path)
            if info.problem:
                closed.append(path + "/")
            kept = (not include or wanted(path)) and not unwanted(path)
            waiting.append(_submit(pool, look, info, known.get(path), kept))
            while len(waiting) > 16 * threads or (waiting and waiting[0].done()):
                yield from _news(waiting.popleft().result(), known)
        while waiting:
            yield from _news(waiting.popleft().result(), known)
    for path in sorted(gone):
        if not path.startswith(tuple(closed)):
            yield {**_columns(known[path]), "present": False}


def matcher(globs: Sequence[str]) -> Callable[[str], bool]:
    """Whether a path matches one of the globs; case does not count.

    `*` and `?` stay within a folder, `**` crosses folders. A glob without '/' is compared with the last name and
    with the name of every folder above; one with '/' with the whole path or a folder above it.
    """
    patterns = [re.compile(_pattern(glob), re.IGNORECASE | re.DOTALL) for glob in globs]
    return lambda path: any(pattern.fullmatch(path) for pattern in patterns)


def _pattern(glob: str) -> str:
    inner = glob.strip("/")
    body = re.sub(r"\*\*/|\*\*|\*|\?|[^*?]+", _translated, inner)
    return ("" if "/" in inner else "(?:.*/)?") + body + "(?:/.*)?"


def _translated(match: re.Match[str]) -> str:
    wild = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return wild.get(match[0]) or re.escape(match[0])


def unreadable_id(path: str) -> str:
    """The image_id of a file whose bytes could not be read: it stands for the path."""
    return hashlib.sha256(b"unreadable\0" + path.encode()).hexdigest()


class _Look:
    """How one file becomes one row."""

    def __init__(self, source: Source, limits: Limits) -> None:
        self.source = source
        self.limits = limits

    def at(self, info: FileInfo, before: Mapping[str, Any] | None, kept: bool) -> Row | None:
        """The row of a file; None where it vanished between the walk and the look."""
        row = _blank(info)
        if info.problem:
            return row | {"problem": info.problem, "problem_text": info.problem_text}
        if not kept:
            return row | {"problem": "excluded", "problem_text": None}
        try:
            if before is None or not _same(info, before):
                return row | self._read(info)
            if before["problem"] not in LOOK_AGAIN:
                return row | {name: before[name] for name in _FOUND}
            with self.source.open_read(info.path) as stream:
                return row | {"image_id": before["image_id"]} | self._header(stream)
        except StorageMissingError:
            return None
        except OSError as error:
            return row | {"problem": "unreadable", "problem_text": str(error)}

    def _read(self, info: FileInfo) -> Row:
        with self.source.open_read(info.path) as stream:
            if (info.bytes or 0) <= IN_MEMORY:
                data = stream.read()
                digest, count, again = hashlib.sha256(data), len(data), io.BytesIO(data)
                found = self._header(again)
            else:
                digest, count = _hashed(stream)
                found = self._header(stream)
        if info.bytes is not None and count != info.bytes:
            text = f"expected {info.bytes:,} bytes, read {count:,}: it is still being written; the next run takes it"
            return {"problem": "changed_while_running", "problem_text": text}
        return {"image_id": digest.hexdigest()} | found

    def _header(self, stream: BinaryIO) -> Row:
        header: Header | None
        problem = text = None
        try:
            header = read_header(stream, self.limits)
        except DecodeError as error:
            header, problem, text = error.header, error.reason_code, str(error)
        return {
            "format": header and header.format,
            "width": header and header.width,
            "height": header and header.height,
            "mode": header and header.mode,
            "problem": problem,
            "problem_text": text,
        }


_FOUND = ("image_id", "format", "width", "height", "mode", "problem", "problem_text")


def _columns(row: Mapping[str, Any]) -> Row:
    return {name: row.get(name) for name in ("path", "bytes", "mtime_ns", "etag", *_FOUND, "present")}


def _blank(info: FileInfo) -> Row:
    path = info.ledger_path
    described = {"path": path, "bytes": info.bytes, "mtime_ns": info.mtime_ns, "etag": info.etag}
    return _columns(described | {"image_id": unreadable_id(path), "present": True})


def _same(info: FileInfo, before: Mapping[str, Any]) -> bool:
    """Whether a file is surely the one of the last scan; without a time or a tag nothing is sure."""
    marks = (info.bytes, info.mtime_ns, info.etag)
    unchanged = marks == (before["bytes"], before["mtime_ns"], before["etag"])
    return unchanged and marks[1:] != (None, None) and before["problem"] not in READ_AGAIN


def _submit(
    pool: ThreadPoolExecutor, look: _Look, info: FileInfo, before: Mapping[str, Any] | None, kept: bool
) -> Future[Row | None]:
    """Unchanged files need no thread: they are settled at once."""
    if before is not None and kept and not info.problem and _same(info, before) and before["problem"] not in LOOK_AGAIN:
        settled: Future[Row | None] = Future()
        settled.set_result(look.at(info, before, kept))
        return settled
    return pool.submit(look.at, info, before, kept)


def _news(row: Row | None, known: Mapping[str, Mapping[str, Any]]) -> Iterator[Row]:
    if row is not None and ((before := known.get(row["path"])) is None or _columns(before) != row):
        yield row


def _hashed(stream: BinaryIO) -> tuple[Any, int]:
    digest, count = hashlib.sha256(), 0
    while chunk := stream.read(CHUNK):
        digest.update(chunk)
        count += len(chunk)
    return digest, count
