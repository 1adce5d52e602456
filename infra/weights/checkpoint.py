"""Reads network weights from files of any origin without running what they contain.

Safetensors, or torch files under restricted unpickling: tensors, plain containers, numpy's numbers and arrays.
Classes of training frameworks that a checkpoint merely mentions are replaced by inert stand-ins. The module knows
file formats; it knows nothing of networks, tables or where files come from.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.weights.errors import WeightsCorrupt, WeightsMismatch, WeightsMissing, WeightsUnsafe

if TYPE_CHECKING:
    from torch import Tensor, nn

WRAPPERS = ("state_dict", "model_state_dict", "params_ema", "params", "model", "net")
PREFIX = "module."
STAND_INS = ("pytorch_lightning.", "lightning.", "lightning_fabric.", "argparse.Namespace", "omegaconf.")
"""Beginnings of class names that checkpoints mention as by-products of training."""


class Inert:
    """Takes the place of a class that a checkpoint mentions and nobody needs; holds what it is given, does nothing."""

    def __new__(cls, *_: Any) -> Inert:
        return object.__new__(cls)

    def __init__(self, *_: Any) -> None:
        """Accepts whatever the replaced class was built from."""

    def __setstate__(self, state: Any) -> None:
        """Drops the replaced object's state."""


def load_state_dict(path: Path, *, expect: str) -> dict[str, Tensor]:
    """Parameter name → tensor on the CPU, with the usual wrappings (`state_dict`, `params_ema`, `module.` …) undone.

    `expect` says in words what the file should hold, for messages. Raises WeightsMissing, WeightsCorrupt,
    WeightsUnsafe, or WeightsMismatch when the file holds something else than tensors by name.
    """
    import torch

    state = _unwrap(load_checkpoint(path, expect=expect))
    strangers = [key for key, value in state.items() if not isinstance(value, torch.Tensor)]
    if strangers or not state:
        found = f"{type(state[strangers[0]]).__name__} under {strangers[0]!r}" if strangers else "nothing at all"
        raise WeightsMismatch(f"{path}: expected {expect} as tensors by name, found {found}: get the right file")
    prefix = PREFIX if all(key.startswith(PREFIX) for key in state) else ""
    return {key.removeprefix(prefix): value for key, value in state.items()}


def load_tensor(path: Path, *, expect: str) -> Tensor:
    """The one tensor that a file holds, on the CPU. Raises as `load_state_dict`."""
    import torch

    content = _read(path, expect)
    if not isinstance(content, torch.Tensor):
        raise WeightsMismatch(f"{path}: expected a tensor of {expect}, found a {type(content).__name__}")
    return content


def load_checkpoint(path: Path, *, expect: str) -> dict[str, Any]:
    """The whole dictionary that a file holds, for layouts richer than a state dict. Raises as `load_state_dict`."""
    content = _read(path, expect)
    if not isinstance(content, Mapping):
        raise WeightsMismatch(f"{path}: expected {expect}, found a {type(content).__name__}: get the right file")
    return dict(content)


def load_into(net: nn.Module, path: Path, *, expect: str) -> nn.Module:
    """Fills `net` strictly from the file and returns it in evaluation mode."""
    with fitting(path, expect=expect):
        net.load_state_dict(load_state_dict(path, expect=expect), strict=True)
    return net.eval()


@contextmanager
def fitting(*paths: Path, expect: str) -> Iterator[None]:
    """Turns the errors of a network that is filled from `paths` within the block into a WeightsMismatch."""
    try:
        yield
    except (RuntimeError, ValueError, KeyError, IndexError) as error:
        reasons = [line.strip() for line in str(error).splitlines() if line.strip()]
        shown = "; ".join(_shorten(reason) for reason in reasons[:4])
        files = " and ".join(str(path) for path in paths)
        raise WeightsMismatch(f"{files}: expected {expect}, found weights that do not fit: {shown}") from error


def convert(source: Path, target: Path, *, expect: str, notes: Mapping[str, str]) -> None:
    """Writes the state dict of `source` to `target` as safetensors, with `notes` in its header; atomically."""
    from safetensors.torch import save_file

    state = {key: value.contiguous() for key, value in load_state_dict(source, expect=expect).items()}
    owners = Counter(value.untyped_storage().data_ptr() for value in state.values())
    state = {key: value.clone() if _shares(value, owners) else value for key, value in state.items()}
    partial = target.with_suffix(".partial")
    save_file(state, partial, metadata=dict(notes))
    partial.replace(target)


def _shares(tensor: Tensor, owners: Mapping[int, int]) -> bool:
    """Whether its memory is another tensor's too, or larger than itself: safetensors stores neither."""
    storage = tensor.untyped_storage()
    return owners[storage.data_ptr()] > 1 or storage.nbytes() != tensor.nbytes


def _unwrap(content: dict[str, Any]) -> dict[str, Any]:
    for wrapper in WRAPPERS:
        inner = content.get(wrapper)
        if isinstance(inner, Mapping):
            return dict(inner)
    return content


def _read(path: Path, expect: str) -> Any:
    if not path.is_file():
        raise WeightsMissing(f"{path}: expected {expect}, found no file: `mpsr models list` says where to get it")
    return _read_safetensors(path, expect) if path.suffix == ".safetensors" else _read_torch(path, expect)


def _read_safetensors(path: Path, expect: str) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise _corrupt(path, expect, str(error)) from error


def _read_torch(path: Path, expect: str) -> Any:
    import torch

    try:
        with torch.serialization.safe_globals(_allowed(path, expect)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refused(path, expect, str(error)) from error
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, IndexError, OSError) as error:
        raise _corrupt(path, expect, str(error)) from error


def _refused(path: Path, expect: str, reason: str) -> WeightsCorrupt | WeightsUnsafe:
    """Tells a pickle that asks for code from a file that is no pickle at all, such as a web page."""
    named = re.search(r"GLOBAL (\S+)", reason)
    with path.open("rb") as file:
        start = file.read(16)
    if named:
        return _unsafe(path, expect, named[1])
    if start.startswith(b"\x80"):
        return _unsafe(path, expect, "whatever a bare pickle may hold")
    return _corrupt(path, expect, f"it begins with {start!r}")


def _allowed(path: Path, expect: str) -> list[Any]:
    """Numpy's scalars (FFA-Net's files) and arrays (FID statistics), and stand-ins for what training left behind."""
    import numpy as np

    multiarray: Any = np._core.multiarray  # type: ignore[attr-defined]
    kinds = {type(np.dtype(kind)) for kind in ("float64", "float32", "int64")}
    allowed: list[Any] = [np.dtype, np.ndarray, *kinds]
    for function in ("scalar", "_reconstruct"):
        for core in ("core", "_core"):  # the module's name before numpy 2, and since
            allowed.append((getattr(multiarray, function), f"numpy.{core}.multiarray.{function}"))
    names = {f"{entry.__module__}.{entry.__qualname__}" for entry in allowed if isinstance(entry, type)}
    names |= {entry[1] for entry in allowed if isinstance(entry, tuple)}
    mentioned = [name for name in _mentioned(path, expect) if name not in names]
    forbidden = [name for name in mentioned if not name.startswith(STAND_INS)]
    if forbidden:
        raise _unsafe(path, expect, ", ".join(sorted(forbidden)[:4]))
    return [*allowed, *((Inert, name) for name in mentioned)]


def _mentioned(path: Path, expect: str) -> list[str]:
    """Names that a zipped checkpoint refers to and torch does not allow; older formats are judged while they load."""
    from torch.serialization import get_unsafe_globals_in_checkpoint

    if not zipfile.is_zipfile(path):
        return []
    with zipfile.ZipFile(path) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise _unsafe(path, expect, "a TorchScript program")
    try:
        return list(get_unsafe_globals_in_checkpoint(path))
    except (RuntimeError, ValueError) as error:
        raise _corrupt(path, expect, str(error)) from error


def _unsafe(path: Path, expect: str, wants: str) -> WeightsUnsafe:
    return WeightsUnsafe(
        f"{path}: expected {expect} as tensors only, found a file that wants to run {wants}; nothing was run. Get it "
        "from its official source, or as safetensors"
    )


def _corrupt(path: Path, expect: str, reason: str) -> WeightsCorrupt:
    return WeightsCorrupt(
        f"{path}: expected {expect}, found {path.stat().st_size:,} bytes that cannot be read "
        f"({_shorten(reason)}): delete the file and get it again"
    )


def _shorten(text: str) -> str:
    first = next((line for line in text.splitlines() if line.strip()), "no reason given")
    return first if len(first) <= 160 else f"{first[:157]}…"
