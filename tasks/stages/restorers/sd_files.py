"""Reads Stable Diffusion from the two forms in which it is published: one original file, or a diffusers folder.

Knows names of files; what is in them is `tasks.models.stable_diffusion.convert`'s.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.weights import WeightsMissing, load_state_dict

if TYPE_CHECKING:
    from tasks.models.stable_diffusion.convert import DiffusersCopy, Source

PARTS = ("unet", "vae", "text_encoder")
FILES = (
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin",
)
"""What the weights of a part may be called, the preferred name first."""


def read_base(path: Path) -> Source:
    """The weights in `path`, a file with LDM keys or a folder with `unet/`, `vae/` and `text_encoder/`.

    Raises a WeightsError where something is missing, cut short or wants to run code.
    """
    if not path.is_dir():
        return load_state_dict(path, expect="Stable Diffusion 2.1 in one file")
    return read_copy(path, PARTS)


def read_copy(folder: Path, parts: Sequence[str]) -> DiffusersCopy:
    """The networks in the folders `parts` of a diffusers copy. Raises as `read_base`."""
    from tasks.models.stable_diffusion.convert import DiffusersCopy

    return DiffusersCopy({part: _read_part(folder / part) for part in parts})


def _read_part(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Configuration and weights of one network."""
    config = folder / "config.json"
    weights = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if not config.is_file() or weights is None:
        raise WeightsMissing(
            f"{folder}: expected config.json and beside it one of {', '.join(FILES)}, found not both: the folder "
            f"above must be a complete diffusers copy, with {folder.name}/ among its parts"
        )
    return json.loads(config.read_text(encoding="utf-8")), load_state_dict(weights, expect=f"the {folder.name}")
