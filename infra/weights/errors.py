"""What can be wrong with a weights file. Every message says what was expected, what came and what to do.

WeightsError
├── WeightsUnknown      the name is not in the table
├── WeightsMissing      the file is not in the store
├── WeightsCorrupt      truncated, unreadable, or its sha256 is not the one expected
├── WeightsUnsafe       a pickle that wants to run code
├── WeightsMismatch     readable, but not the network that was expected
├── LicenceNotAccepted  the licence restricts use and nobody accepted it
└── DownloadFailed      no source answered as it should (exit code 3, all others 2)
"""

from __future__ import annotations

from infra.problems import ForPeople


class WeightsError(ForPeople):
    """Base of everything that can be wrong with a weights file."""

    exit_code = 2


class WeightsUnknown(WeightsError):
    """The name is not in the table."""


class WeightsMissing(WeightsError):
    """The file is not in the store."""


class WeightsCorrupt(WeightsError):
    """The file is truncated, unreadable, or not the one whose sha256 is known."""


class WeightsUnsafe(WeightsError):
    """The file is a pickle that wants to run code; nothing of it was run."""


class WeightsMismatch(WeightsError):
    """The file is readable, but it does not hold the network that was expected."""


class LicenceNotAccepted(WeightsError):
    """The licence restricts use, and nobody has accepted it."""


class DownloadFailed(WeightsError):
    """No source answered as it should; what came is kept, and the same command goes on from there."""

    exit_code = 3
