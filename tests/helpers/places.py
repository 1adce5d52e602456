"""Where things are that more than one test asks for."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The repository."""
HELPERS = Path(__file__).parent
"""Modules that tests, and the workers they start, import by name."""
SHARED = Path(os.environ.get("MPSR_SHARED", ROOT.parent / "shared"))
"""Fixtures and pictures that may not be part of the repository; tests that need them skip where they are absent."""
PARITY = SHARED / "parity"
WEIGHTS = ROOT / "tasks" / "models" / "weights"
