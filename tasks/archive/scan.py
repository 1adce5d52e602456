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
from dataclasses import replace
from typing import BinaryIO, Protocol

from infra.ledger import FileRow, unreadable_id
from infra.storage import FileInfo, StorageMissingError
from tasks.pictures import SUFFIXES, DecodeError, Limits, read_header

IN_MEMORY = 64 << 20
"""Files up to this many bytes are read once, into memory; larger ones are streamed and their header read again."""
CHUNK = 1 << 20
LOOK_AGAIN = {"too_large", "unsupported_format"}
"""Problems that a changed setting or installation may cure: the header is read again, the content not."""
SIDECAR = re.compile(
    rf"\.(xmp|aae|thm|pp3|dop|cos|on1)$|\.({'|'.join(sorted(SUFFIXES))})(\.[\w-]+)?\.(json|txt|xml)$", re.IGNORECASE
)
"""How files are called in which cameras and programs keep what belongs to the picture of that name."""
STAYS = "it says something of the picture of that name, and stays beside the original in the archive"
READ_AGAIN = {"unreadable", "broken_link", "excluded", "changed_while_running", "symlink_loop"}
"""Problems with which nothing was read, so that there is nothing to reuse."""


class Source(Protocol):
    """What a scan needs of a storage (see infra.storage.Storage)."""

    def walk(self, prefix: str = "") -> Iterator[FileInfo]: ...

    def open_read(self, path: str) -> BinaryIO: ...


def scan_archive(
    source: Source,
    known: Mapping[str, FileRow],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    limits: Limits | None = None,
    threads: int = 8,
) -> Iterator[FileRow]:
    """Yields an inventory row for every file that is new or different, then one for every file that is gone.

    known: the latest row of each ledger path, as a scan yielded it (see `infra.ledger.known_files`); a file that
    would get the same row again yields none.
    include, exclude: globs (see `matcher`); a file must match one of `include`, if there are any, and none of
    `exclude`; the others get the problem `excluded` and are not opened.
    Rows come in the order of the walk. Raises StorageMissingError where the source itself is missing.
    """
    look = _Look(source, limits or Limits())
    wanted, unwanted = matcher(include), matcher(exclude)
    gone = {path for path, row in known.items() if row.present}
    closed: list[str] = []
    with ThreadPoolExecutor(threads, thread_name_prefix="scan") as pool:
        waiting: deque[tuple[FileRow | None, Future[FileRow | None]]] = deque()
        for info in source.walk(""):
            path = info.ledger_path
            gone.discard(path)
            if info.problem:
                closed.append(path + "/")
            kept = (not include or wanted(path)) and not unwanted(path)
            before = known.get(path)
            waiting.append((before, _submit(pool, look, info, before, kept)))
            while len(waiting) > 16 * threads or (waiting and waiting[0][1].done()):
                yield from _news(*waiting.popleft())
        while waiting:
            yield from _news(*waiting.popleft())
    for path in sorted(gone):
        if not path.startswith(tuple(closed)):
            yield replace(known[path], present=False)


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


class _Look:
    """How one file becomes one row."""

    def __init__(self, source: Source, limits: Limits) -> None:
        self.source = source
        self.limits = limits

    def at(self, info: FileInfo, before: FileRow | None, kept: bool) -> FileRow | None:
        """The row of a file; None where it vanished between the walk and the look."""
        row = _unread(info)
        if info.problem:
            return replace(row, problem=info.problem, problem_text=info.problem_text)
        if not kept:
            return replace(row, problem="excluded")
        try:
            if before is None or not _same(info, before):
                return self._read(info, row)
            if before.problem not in LOOK_AGAIN:
                return replace(before, present=True)
            with self.source.open_read(info.path) as stream:
                return self._header(replace(row, image_id=before.image_id), stream)
        except StorageMissingError:
            return None
        except OSError as error:
            return replace(row, problem="unreadable", problem_text=str(error))

    def _read(self, info: FileInfo, row: FileRow) -> FileRow:
        with self.source.open_read(info.path) as stream:
            if (row.bytes or 0) <= IN_MEMORY:
                data = stream.read()
                digest, count = hashlib.sha256(data).hexdigest(), len(data)
                found = self._header(row, io.BytesIO(data))
            else:
                digest, count = _hashed(stream)
                found = self._header(row, stream)
        if row.bytes is not None and count != row.bytes:
            text = f"expected {row.bytes:,} bytes, read {count:,}: it is still being written; the next run takes it"
            return replace(row, problem="changed_while_running", problem_text=text)
        return replace(found, image_id=digest)

    def _header(self, row: FileRow, stream: BinaryIO) -> FileRow:
        try:
            header = read_header(stream, self.limits)
        except DecodeError as error:
            row = replace(row, problem=error.reason_code, problem_text=str(error))
            if error.reason_code == "not_an_image" and SIDECAR.search(row.path):
                return replace(row, problem="sidecar", problem_text=STAYS)
            if error.header is None:
                return row
            header = error.header
        return replace(row, format=header.format, width=header.width, height=header.height, mode=header.mode)


def _unread(info: FileInfo) -> FileRow:
    """The row of a file of which nothing but its entry in the folder is known."""
    path = info.ledger_path
    image_id = unreadable_id(path)
    return FileRow(path=path, image_id=image_id, bytes=info.bytes, mtime_ns=info.mtime_ns, etag=info.etag)


def _same(info: FileInfo, before: FileRow) -> bool:
    """Whether a file is surely the one of the last scan; without a time or a tag nothing is sure."""
    marks = (info.bytes, info.mtime_ns, info.etag)
    unchanged = marks == (before.bytes, before.mtime_ns, before.etag)
    return unchanged and marks[1:] != (None, None) and before.problem not in READ_AGAIN


def _submit(
    pool: ThreadPoolExecutor, look: _Look, info: FileInfo, before: FileRow | None, kept: bool
) -> Future[FileRow | None]:
    """Unchanged files need no thread: they are settled at once."""
    if before is not None and kept and not info.problem and _same(info, before) and before.problem not in LOOK_AGAIN:
        settled: Future[FileRow | None] = Future()
        settled.set_result(look.at(info, before, kept))
        return settled
    return pool.submit(look.at, info, before, kept)


def _news(before: FileRow | None, found: Future[FileRow | None]) -> Iterator[FileRow]:
    row = found.result()
    if row is not None and row != before:
        yield row


def _hashed(stream: BinaryIO) -> tuple[str, int]:
    """SHA-256 and number of the bytes."""
    digest, count = hashlib.sha256(), 0
    while chunk := stream.read(CHUNK):
        digest.update(chunk)
        count += len(chunk)
    return digest.hexdigest(), count
