"""Puts the weights of a checkpoint into a network, all of them or none.

Knows tensors by name; knows neither files nor any network.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

StateDict = dict[str, Tensor]


class CheckpointError(ValueError):
    """Weights are not what was expected; the message says what was and what came."""


def load_strict(model: torch.nn.Module, state: StateDict, what: str) -> None:
    """Gives `model` the tensors of `state` themselves (no copy), or raises `CheckpointError`, naming what differs."""
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    shapes = [
        f"{key} is {tuple(state[key].shape)}, expected {shape}"
        for key, shape in expected.items()
        if key in state and tuple(state[key].shape) != shape
    ]
    found = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    complaints = [f"{len(names)} {kind} ({_some(names)})" for kind, names in found.items() if names]
    if complaints:
        raise CheckpointError(f"{what}: the weights do not fit this architecture: {'; '.join(complaints)}")
    model.load_state_dict(state, strict=True, assign=True)


def _some(names: Sequence[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", …" if len(names) > count else "")
