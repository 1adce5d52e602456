"""Fetches one file over HTTP: resumable, from the first source that answers, through the environment's proxies.

The module knows nothing of tables or hashes: a caller's check decides whether what came is what was wanted.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING
from zlib import crc32

from infra.weights.errors import DownloadFailed, WeightsCorrupt

if TYPE_CHECKING:
    import httpx

HUGGING_FACE = "https://huggingface.co"
Advance = Callable[[int, int | None], None]
"""Told the bytes that are here and the bytes expected in all (None where no source says)."""


class _Cut(Exception):
    """The connection ended early; what came is kept, and the next try goes on from there."""


def fetch(
    urls: Sequence[str],
    target: Path,
    check: Callable[[Path], None],
    advance: Advance,
    *,
    tries: int = 5,
    pause: float = 1.0,
) -> None:
    """Brings the file to `target` from the first of `urls` whose answer passes `check`; atomically.

    `check` raises WeightsCorrupt for a wrong file, which is then thrown away before the next source is asked. What came
    before a cut connection or an interrupted run stays beside the target (`.part`, one per source, so that two sources
    never mix) and is not fetched again. Waits `pause` seconds, doubling, between tries. Raises DownloadFailed with
    every source's reason.
    """
    reasons = []
    for url in map(_through_endpoint, urls):
        part = target.with_name(f"{target.name}.{crc32(url.encode()):08x}.part")
        try:
            with _alone(part) as file:
                _fetch_from(url, file, advance, tries, pause)
                os.fsync(file.fileno())
                check(part)
        except WeightsCorrupt as error:
            part.unlink(missing_ok=True)
            reasons.append(f"{url}: {error}")
        except DownloadFailed as error:
            reasons.append(f"{url}: {error}")
        else:
            part.replace(target)
            for other in target.parent.glob(f"{target.name}.*.part"):
                other.unlink()
            return
    raise DownloadFailed(f"expected {target.name}, and no source gave it: " + "; ".join(reasons))


def _fetch_from(url: str, file: IO[bytes], advance: Advance, tries: int, pause: float) -> None:
    import httpx

    reason = ""
    with httpx.Client(follow_redirects=True, timeout=httpx.Timeout(60, connect=20)) as client:
        for attempt in range(tries):
            if attempt:
                time.sleep(min(pause * 2 ** (attempt - 1), 30))
            try:
                _go_on(client, url, file, advance)
            except (_Cut, httpx.TransportError) as error:
                reason = str(error) or type(error).__name__
            except (httpx.InvalidURL, httpx.TooManyRedirects) as error:
                raise DownloadFailed(str(error)) from error
            else:
                return
    raise DownloadFailed(f"gave up after {tries} tries ({reason}); run the command again to go on")


def _go_on(client: httpx.Client, url: str, file: IO[bytes], advance: Advance) -> None:
    """One request for what is still missing."""
    here = file.seek(0, os.SEEK_END)
    headers = {"Range": f"bytes={here}-", "Accept-Encoding": "identity"} if here else {"Accept-Encoding": "identity"}
    with client.stream("GET", url, headers=headers) as response:
        if response.status_code == 416 and here == _total(response):
            return
        if response.status_code in (200, 416) and here:
            file.truncate(0)
            here = 0
        if response.status_code == 416:
            raise _Cut("the part that was here did not belong to this file")
        _refuse_what_is_no_file(response)
        total = _total(response)
        _need_space(file, total, here)
        for chunk in response.iter_raw():  # as it comes: gathered chunks would be lost when the connection is cut
            file.write(chunk)
            here += len(chunk)
            advance(here, total)
        file.flush()
    if total is not None and here < total:
        raise _Cut(f"the connection ended after {here:,} of {total:,} bytes")


def _refuse_what_is_no_file(response: httpx.Response) -> None:
    if response.status_code >= 500 or response.status_code == 429:
        raise _Cut(f"the server answered {response.status_code}")
    if response.status_code not in (200, 206):
        raise DownloadFailed(f"the server answered {response.status_code} {response.reason_phrase}")
    if response.headers.get("content-type", "").startswith("text/html"):
        raise DownloadFailed("the server answered with a web page instead of a file")


def _total(response: httpx.Response) -> int | None:
    """Size of the whole file, where the server tells it."""
    ranged = response.headers.get("content-range", "").rpartition("/")[2]
    if ranged.isdigit():
        return int(ranged)
    length = response.headers.get("content-length", "")
    return int(length) if length.isdigit() and response.status_code == 200 else None


def _need_space(file: IO[bytes], total: int | None, here: int) -> None:
    free = shutil.disk_usage(Path(file.name).parent).free
    if total is not None and total - here > free:
        raise DownloadFailed(
            f"needs {total - here:,} bytes on the disk of {Path(file.name).parent}, which has {free:,}"
        )


def _through_endpoint(url: str) -> str:
    """Hugging Face by the address that its own tools would use."""
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/")
    return url.replace(HUGGING_FACE, endpoint, 1) if endpoint and url.startswith(f"{HUGGING_FACE}/") else url


@contextmanager
def _alone(part: Path) -> Iterator[IO[bytes]]:
    """The partial file, opened for appending, held against other processes."""
    with part.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DownloadFailed(f"{part}: another process is fetching it: wait for that one") from error
        yield file
