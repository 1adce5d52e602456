"""One writer run per workspace: a lease with a growing fencing token. Knows nothing of what the holder does.

Each holder creates `leases/<token>.json` under a number that nobody had before; of several contenders exactly one
succeeds. It renews `leases/<token>.beat.json` while it lives. Whoever finds the holder gone takes the next number;
rows with a lower token lose against it, so that a writer who wakes up late can do no harm.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import TracebackType

from infra.ledger.files import highest_token_of_rows
from infra.problems import ForPeople
from infra.storage import Storage, StorageError, StorageExistsError, StorageMissingError

_FOLDER = "leases"
TTL_S = 60.0
"""Seconds of silence after which a holder elsewhere may be gone."""
_log = logging.getLogger(__name__)


class WorkspaceBusy(ForPeople):
    """Another run holds the workspace; the message names it and says what to do."""

    exit_code = 2


class LeaseLost(ForPeople):
    """Another run has taken the workspace over; whatever is written now loses against it."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lease, as the lease file says."""

    token: int
    owner: str
    host: str
    machine: str
    """Boot and process-id namespace: only where it equals ours does a process id mean anything to us."""
    pid: int
    pid_started: float
    since: float
    ttl_s: float


@dataclass(frozen=True, slots=True)
class Beat:
    """The holder's last sign of life, by its own clock (seconds since the epoch)."""

    renewed: float
    released: bool = False


class Lease:
    """A held lease; a context manager that releases on leaving. `token` grows with every holder."""

    def __init__(self, storage: Storage, holder: Holder) -> None:
        self.holder = holder
        self._storage = storage
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._keep_beating, name="lease-heartbeat", daemon=True)
        self._heart.start()

    @classmethod
    def acquire(cls, storage: Storage, owner: str, ttl_s: float = TTL_S) -> Lease:
        """Take the workspace for `owner` (a run id).

        A holder on this machine is gone when its process is; one elsewhere when it has been silent for `ttl_s`
        seconds (and, clocks being what they are, for half of that again while we watch). Raises WorkspaceBusy.
        """
        top = highest_token(storage)
        if top and not _is_gone(storage, top):
            raise WorkspaceBusy(_who(storage, top))
        holder = _ourselves((top or highest_token_of_rows(storage)) + 1, owner, ttl_s)
        try:
            storage.create_new(_claim_path(holder.token), json.dumps(asdict(holder)).encode())
        except StorageExistsError as error:
            raise WorkspaceBusy(_who(storage, holder.token)) from error
        _forget_below(storage, holder.token)
        return cls(storage, holder)

    @property
    def token(self) -> int:
        return self.holder.token

    def check(self) -> None:
        """Raise LeaseLost where another run has taken over; one look at the storage."""
        top = highest_token(self._storage)
        if top != self.token:
            raise LeaseLost(
                f"run {self.holder.owner} has lost the workspace {self._storage.shown_url}: {_who(self._storage, top)}"
            )

    def release(self) -> None:
        """Give the workspace free at once. Never raises: an unreleased lease ends by itself."""
        if self._ended.is_set():
            return
        self._ended.set()
        self._heart.join()
        try:
            self._beat(released=True)
        except StorageError as error:
            _log.warning("lease %s not released, it will end by itself: %s", self.token, error)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _keep_beating(self) -> None:
        while not self._ended.wait(self.holder.ttl_s / 3):
            try:
                self._beat(released=False)
            except StorageError as error:
                _log.warning("lease %s not renewed, trying again: %s", self.token, error)

    def _beat(self, *, released: bool) -> None:
        beat = Beat(time.time(), released)
        self._storage.write_atomic(_beat_path(self.token), json.dumps(asdict(beat)).encode())


def holder_of(storage: Storage) -> Holder | None:
    """Who holds the workspace now; None where nobody does. Does not wait: a silent holder elsewhere counts."""
    top = highest_token(storage)
    if not top or _read_beat(storage, top).released:
        return None
    holder = _read_claim(storage, top)
    return None if _is_same_machine(holder) and not _process_lives(holder) else holder


def _is_gone(storage: Storage, token: int) -> bool:
    holder, beat = _read_claim(storage, token), _read_beat(storage, token)
    if beat.released:
        return True
    if _is_same_machine(holder):
        return not _process_lives(holder)
    if 0 <= time.time() - beat.renewed <= holder.ttl_s:
        return False
    time.sleep(holder.ttl_s / 2)  # clocks differ between machines: a holder that is alive renews within this time
    return _read_beat(storage, token) == beat


def _ourselves(token: int, owner: str, ttl_s: float) -> Holder:
    return Holder(
        token, owner, socket.gethostname(), _machine(), os.getpid(), _started(os.getpid()), time.time(), ttl_s
    )


@cache
def _machine() -> str:
    """This boot of this machine, as seen from this container; the host's name where the system has no such ids."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def _is_same_machine(holder: Holder) -> bool:
    return holder.machine == _machine()


def _process_lives(holder: Holder) -> bool:
    """Whether the very process lives: numbers are used again, and a zombie will do nothing any more."""
    import psutil

    try:
        process = psutil.Process(holder.pid)
        return abs(process.create_time() - holder.pid_started) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _started(pid: int) -> float:
    import psutil

    return float(psutil.Process(pid).create_time())


def _who(storage: Storage, token: int) -> str:
    holder = _read_claim(storage, token)
    since = datetime.fromtimestamp(holder.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    silent = max(0.0, time.time() - _read_beat(storage, token).renewed)
    return (
        f"run {holder.owner} holds it since {since} (process {holder.pid} on {holder.host}, last sign of life "
        f"{silent:.0f} s ago); wait for it, or end that process and start again"
    )


def highest_token(storage: Storage) -> int:
    """The token of who holds the workspace, or held it last; 0 where nobody ever did."""
    try:
        names = [found.path.rpartition("/")[2] for found in storage.walk(_FOLDER)]
    except StorageMissingError:
        return 0
    return max((int(name.split(".")[0]) for name in names if name.count(".") == 1), default=0)


def _read_claim(storage: Storage, token: int) -> Holder:
    """Who holds a lease; of a damaged file only that somebody, somewhere, does: its beats tell whether it lives."""
    try:
        return Holder(**json.loads(storage.read_bytes(_claim_path(token))))
    except (ValueError, TypeError):
        return Holder(token, "unknown", "unknown", "unknown", 0, 0.0, 0.0, TTL_S)


def _read_beat(storage: Storage, token: int) -> Beat:
    """The last beat; the claim itself counts as the first, and in place of a damaged one."""
    try:
        return Beat(**json.loads(storage.read_bytes(_beat_path(token))))
    except (StorageMissingError, ValueError, TypeError):
        return Beat(_read_claim(storage, token).since)


def _forget_below(storage: Storage, token: int) -> None:
    """Delete leases older than the last one before this: nobody asks for them any more."""
    for info in list(storage.walk(_FOLDER)):
        if int(info.path.rpartition("/")[2].split(".")[0]) < token - 1:
            storage.delete(info.path)


def _claim_path(token: int) -> str:
    return f"{_FOLDER}/{token:06d}.json"


def _beat_path(token: int) -> str:
    return f"{_FOLDER}/{token:06d}.beat.json"
