"""What this machine computes on, found out without importing torch or starting Ray."""

from __future__ import annotations

from pathlib import Path


def has_gpu() -> bool:
    """Whether an NVIDIA device is visible to this process."""
    return any(Path("/dev").glob("nvidia[0-9]*"))
