"""A checkpoint that tries to run code when it is read, for tests of what reads checkpoints."""

from __future__ import annotations

import os

import torch


class Evil:
    """On unpickling, creates a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def save_evil(folder, **options):
    path = folder / "evil.pth"
    torch.save({"state_dict": {"w": torch.ones(2)}, "more": Evil(folder / "executed")}, path, **options)
    return path
