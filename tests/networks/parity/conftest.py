"""The fixtures' own generator of weights and pictures, and how far from the original a tensor is."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from places import PARITY


@pytest.fixture(scope="session")
def recipe():
    """`fill` rebuilds weights of names and shapes, `image` the pictures."""
    spec = importlib.util.spec_from_file_location("parity_recipe", PARITY / "recipe.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def relative():
    """‖a − b‖ / ‖b‖, in float64."""

    def distance(found, expected):
        found, expected = (torch.as_tensor(each).double() for each in (found, expected))
        return float((found - expected).norm() / expected.norm())

    return distance
