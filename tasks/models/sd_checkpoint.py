"""Reads checkpoint files into plain state dicts, without ever running code from them.

Knows the file formats (safetensors, torch zip and legacy pickles, a Lightning wrapper); knows nothing of any
network.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

StateDict = dict[str, Tensor]


class CheckpointError(ValueError):
    """A checkpoint is not what was expected; the message says what was, what came and what to do."""


class _LightningCallback:
    """Takes the place of the one class that Lightning checkpoints name; it holds nothing and does nothing."""


@contextlib.contextmanager
def _known_globals() -> Iterator[None]:
    """Allows the harmless names found in the published files: numpy scalars and one callback class."""
    numpy_scalar = np.float64(0).__reduce__()[0]
    names: list[Any] = [
        (numpy_scalar, "numpy.core.multiarray.scalar"),
        (numpy_scalar, "numpy._core.multiarray.scalar"),
        np.dtype,
        *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64")),
        (_LightningCallback, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"),
    ]
    with torch.serialization.safe_globals(names):
        yield


def read_checkpoint(path: Path | str) -> dict[str, Any]:
    """Returns the object stored in `path`, always a dict.

    `.safetensors` is read as such, everything else as a torch file under restricted unpickling (tensors, plain
    containers and a short list of inert classes). Raises `CheckpointError` for a missing, truncated or foreign
    file and for a pickle that names anything else; nothing of it is executed.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"expected a checkpoint file at {path}; there is none")
    try:
        content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n", 1)[0]
        raise CheckpointError(
            f"{path.name}: expected tensors only, found a pickle that asks for more ({reason}); nothing was "
            "executed. Get the file from its official source, or its .safetensors twin"
        ) from error
    except Exception as error:
        raise CheckpointError(
            f"{path.name}: expected a readable checkpoint, got {type(error).__name__}: {error}. "
            "The file may be truncated or not a checkpoint: compare its size and sha256, download it again"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path.name}: expected a dict of tensors, got {type(content).__name__}")
    return content


def read_state_dict(source: Path | str | Mapping[str, Any]) -> StateDict:
    """Returns the tensors of a checkpoint by name: `state_dict` unwrapped, a leading `module.` removed."""
    content = source if isinstance(source, Mapping) else read_checkpoint(source)
    content = content.get("state_dict", content)
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"expected tensors by name, got {type(content).__name__} with none: {_some(content)}")
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


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


def _read_safetensors(path: Path) -> StateDict:
    from safetensors.torch import load_file

    tensors: StateDict = load_file(path)
    return tensors


def _read_torch(path: Path) -> Any:
    with _known_globals():
        return torch.load(path, map_location="cpu", weights_only=True)


def _some(names: Any, count: int = 3) -> str:
    shown = [str(name) for name in list(names)[:count]]
    return ", ".join(shown) + (", …" if len(names) > count else "")
