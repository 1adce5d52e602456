"""What can go wrong while workers work, and which of the executor's answers it calls for.

    ExecutorError
    ├── WorkerStartFailed     a worker could not be built: a mistake in what it was given, said at once
    ├── WorkersKeepDying      more restarts than the settings allow
    ├── ExecutorCancelled     somebody stopped the run; what was finished until then was delivered
    └── HostContractBroken    a host answered with rows that do not match its items
    ResourceExhausted         a host says: too little memory for this many items
    InfrastructureError       a host says: the machinery failed, try again later

Knows nothing of Ray and imports nothing heavy: hosts raise these and drivers catch them.
"""

from __future__ import annotations

import errno
import traceback
from dataclasses import dataclass
from typing import Any, Literal

from infra.problems import RESUME, ForPeople
from infra.storage import PathRefusedError, StorageFullError

Kind = Literal["infrastructure", "resource", "poison", "unwritable"]
"""Retry later; retry with fewer items; find the item that causes it; retry later, and stop since nothing is written."""

ReasonCode = Literal["killed_worker", "too_slow", "stage_error", "out_of_memory", "infrastructure"]
_NO_MEMORY_PHRASES = (
    "can't allocate memory",  # torch's CPU allocator raises a bare RuntimeError
    "out of memory",  # CUDA libraries other than torch's allocator
    "insufficient memory",  # OpenCV
)


class ExecutorError(ForPeople):
    """Base of everything that ends a map as a whole."""


class WorkerStartFailed(ExecutorError):
    """A worker process could not build its host; the message is the factory's own."""


class WorkersKeepDying(ExecutorError):
    """Workers died more often than the settings allow; the message says how often and of what, last."""

    hint = RESUME


class ExecutorCancelled(ExecutorError):
    """The executor was cancelled or closed before the map was finished."""

    hint = RESUME


class HostContractBroken(ExecutorError):
    """Host.run gave no row for an item, or a row for an item that it was not given."""


class ResourceExhausted(Exception):
    """Raised by a host when memory does not suffice; the executor halves the micro-batch."""


class InfrastructureError(Exception):
    """Raised by a host when machinery (storage, network) failed; the executor tries again after a pause."""


@dataclass(frozen=True)
class Failure:
    """One item given up: what kind of error it was, a reason code, a sentence, and how often it was tried."""

    item: Any
    """As it was given to the map."""
    kind: Kind
    reason_code: ReasonCode
    reason: str
    attempts: int


@dataclass(frozen=True)
class Trouble:
    """An exception as plain data, so that it survives the way out of a process whatever its class.

    `died` marks the end of the whole process, of which there is no exception to show; `late` that it was ended because
    it did not answer in time.
    """

    kind: Kind
    text: str
    traceback: str = ""
    died: bool = False
    late: bool = False

    @classmethod
    def of(cls, error: BaseException) -> Trouble:
        """Sorts an exception where it is caught."""
        trace = "".join(traceback.format_exception(error))
        return cls(kind_of(error), f"{type(error).__name__}: {error}", trace)


def kind_of(error: BaseException) -> Kind:
    """Which answer an exception calls for; OSError and its like are the machinery's, the rest the item's."""
    if _is_memory(error):
        return "resource"
    if isinstance(error, StorageFullError | PathRefusedError):
        return "unwritable"
    if isinstance(error, OSError | TimeoutError | InfrastructureError):
        return "infrastructure"
    return "poison"


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | ResourceExhausted):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    if any(cls.__name__ == "OutOfMemoryError" for cls in type(error).__mro__):
        return True
    return not isinstance(error, OSError) and any(phrase in str(error).lower() for phrase in _NO_MEMORY_PHRASES)
