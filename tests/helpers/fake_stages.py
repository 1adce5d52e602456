"""Stages of a few lines, so that the real engine can be tested in seconds and without a network."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

from tasks.stage import FaceResult, FaceStage, Outcome, StageSettings

BRIGHTENING = """
name = "brightening"
[[stage]]
id = "detect_align"
settings = { detector = "none" }
[[stage]]
id = "brighten"
use = "fake_stages:Brighten"
[[stage]]
id = "paste_back"
"""
"""The least recipe: every picture is a face, made brighter."""


class BrightenSettings(StageSettings):
    amount: float = 0.1
    seconds: float = 0.0
    journal: str = ""


class Brighten(FaceStage):
    """Adds a constant; writes every face that it works on into a journal, so that repeated work can be counted."""

    name = "brighten"
    Settings = BrightenSettings
    reads = ("aligned",)
    writes = ("restored",)

    @classmethod
    def batch_size(cls, settings):
        return 4

    def run(self, batch):
        if self.settings.journal:
            with Path(self.settings.journal).open("a") as journal:
                journal.writelines(f"{face.image_id}\n" for face in batch.faces)
        time.sleep(self.settings.seconds * len(batch))
        return [FaceResult(Outcome(), {"restored": image + self.settings.amount}) for image in batch.images["aligned"]]


class PoisonSettings(StageSettings):
    above: float = 0.95


class Poison(FaceStage):
    """Passes faces on, but kills its own process for one whose first pixel is nearly white."""

    name = "poison"
    Settings = PoisonSettings
    reads = ("aligned", "restored")
    writes = ("restored",)

    @classmethod
    def batch_size(cls, settings):
        return 8

    def run(self, batch):
        if any(image[0, 0, 0] > self.settings.above for image in batch.images["aligned"]):
            os.kill(os.getpid(), signal.SIGKILL)
        return [FaceResult(Outcome(), {"restored": image}) for image in batch.images["restored"]]


class Hungry(FaceStage):
    """Has memory for two faces at a time."""

    name = "hungry"
    reads = ("restored",)
    writes = ("restored",)

    @classmethod
    def batch_size(cls, settings):
        return 8

    def run(self, batch):
        if len(batch) > 2:
            raise MemoryError("memory for two faces only")
        return [FaceResult(Outcome(), {"restored": image}) for image in batch.images["restored"]]


class SwapSettings(StageSettings):
    file: str = ""


class Swap(FaceStage):
    """A restorer that gives everybody the same other face."""

    name = "swap"
    Settings = SwapSettings
    reads = ("restored",)
    writes = ("restored",)

    def run(self, batch):
        other = np.load(self.settings.file)
        return [FaceResult(Outcome(), {"restored": other}) for _ in batch.faces]


class FixedScores(FaceStage):
    """CLIPIQA and MUSIQ cannot be had in tests: dark faces are extremely poor, bright ones fair."""

    name = "fixed_scores"
    reads = ("aligned",)

    @classmethod
    def provides(cls, settings):
        return ("clipiqa.aligned", "musiq.aligned")

    def run(self, batch):
        poor = [image.mean() < 0.35 for image in batch.images["aligned"]]
        scores = {True: (0.1, 10.0), False: (0.8, 60.0)}
        return [
            FaceResult(
                Outcome(reason_code="scored", metrics=dict(zip(self.provides(self.settings), scores[p], strict=True)))
            )
            for p in poor
        ]
