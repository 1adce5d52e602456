"""Files that come with the package but are no code: deployments and data sets."""

from __future__ import annotations

from pathlib import Path

_ROOT = Path(__file__).parents[1]


def shipped(name: str) -> Path:
    """Where it lies: inside `mpsr` in an installed package, at the root of a checkout."""
    installed = _ROOT / "mpsr" / name
    return installed if installed.exists() else _ROOT / name
