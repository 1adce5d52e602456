"""A measurer that writes down what it measures, so that tests can count; workers import this module by name."""

from __future__ import annotations

import time
from pathlib import Path

from tasks.measuring.measurer import MeasureConfig, Measurer

JOURNAL, SLOWLY = "journal.txt", "slowly"
"""Files in the evaluation folder: what was measured, and one whose presence gives time to interrupt it."""


class JournallingMeasurer(Measurer):
    """One line per pair and metric."""

    def _face(self, item, pictures, face, event):
        folder = Path(self.config.workspace)
        with (folder / JOURNAL).open("a") as journal:
            journal.writelines(f"{item.key} {name}\n" for name in item.metrics)
        if (folder / SLOWLY).exists():
            time.sleep(1.0)
        return super()._face(item, pictures, face, event)


def build(config):
    return JournallingMeasurer(MeasureConfig.model_validate(config))
