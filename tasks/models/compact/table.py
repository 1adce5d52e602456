"""The small networks of the compact recipe, for CPUs: restorers, quality, dehazing, skin tone, landmarks.

All but `LandmarkNet` take RGB (N, 3, H, W) float32 in [0, 1], as a rule 512×512. Those that return a picture
return one of the same shape, clamped to [0, 1], and leave a clean face nearly alone. `load_compact` builds a
network from a safetensors file that names it. The module knows nothing of recipes, stages or devices.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save
from torch import nn

from tasks.models.compact.faces import LandmarkNet
from tasks.models.compact.identity import IdentityNet
from tasks.models.compact.quality import QualityNet
from tasks.models.compact.restorers import CompactRestorer, SevereRestorer
from tasks.models.compact.tones import CompactDehaze, CompactSkinTone

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "restorer": CompactRestorer,
    "severe": SevereRestorer,
    "quality": QualityNet,
    "dehaze": CompactDehaze,
    "skin_tone": CompactSkinTone,
    "landmarks": LandmarkNet,
    "identity": IdentityNet,
}


def build(name: str, **config: object) -> nn.Module:
    """Build an untrained network of the table `NETWORKS`. Raises KeyError for a name that is not in it."""
    if name not in NETWORKS:
        raise KeyError(f"no compact network is called {name!r}; there are {', '.join(NETWORKS)}")
    return NETWORKS[name](**config)


def save_compact(net: nn.Module, name: str, config: dict[str, object], path: Path) -> None:
    """Write weights as 16-bit floats with the network's name and configuration in the metadata.

    The same weights give the same bytes.
    """
    tensors = {key: value.detach().cpu().half().contiguous() for key, value in net.state_dict().items()}
    path.write_bytes(_in_order(save(tensors, {"network": name, "config": json.dumps(config, sort_keys=True)})))


def _in_order(file: bytes) -> bytes:
    """A safetensors file with its header's names in order; the library writes metadata in any."""
    size = int.from_bytes(file[:8], "little")
    header = json.dumps(json.loads(file[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + file[8 + size :]


def load_compact(path: str | Path) -> nn.Module:
    """Load a network in evaluation mode, float32, on the CPU.

    Raises ValueError when the file does not say which network it holds.
    """
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    if "network" not in metadata:
        raise ValueError(f"{path} names no compact network in its metadata; expected a file of models/weights")
    net = build(metadata["network"], **json.loads(metadata.get("config", "{}")))
    net.load_state_dict(tensors)
    return net.eval().requires_grad_(False)
