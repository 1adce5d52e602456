"""Adds the low-rank changes of a LoRA file to the weights of a network, by the names under which they are published.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (ICLR 2022). Knows weights by name, and no network.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from torch import Tensor, nn

from tasks.models.stable_diffusion.checkpoint import CheckpointError, StateDict

_HALF = re.compile(r"(?P<module>.+)\.lora(?:_(?P<half>[AB])(?:\.default)?|\.(?P<old>down|up))\.weight$")
"""`to_q.lora_A.weight`, `to_q.lora_A.default.weight`, `to_q.lora.down.weight`: three spellings of one thing."""
_OLD = {"down": "A", "up": "B"}


def is_lora(key: str) -> bool:
    """Whether a weight of that name is half of a low-rank change."""
    return _HALF.match(key) is not None


def adapted(network: nn.Module, targets: Iterable[str]) -> set[str]:
    """The modules of `network` that have weights and are called as one of `targets`, or end so."""
    ends = tuple(f".{target}" for target in targets)
    weighted = (key.removesuffix(".weight") for key, value in network.named_parameters() if value.ndim > 1)
    return {module for module in weighted if f".{module}".endswith(ends)}


def merge(network: nn.Module, lora: Mapping[str, Tensor], what: str, modules: Collection[str] | None = None) -> None:
    """Gives `network` the weights of `merged`; with `modules`, the file must hold a change for exactly these."""
    if modules is not None:
        found = {match["module"] for key in lora if (match := _HALF.match(key))}
        if strange := sorted(found ^ set(modules)):
            raise CheckpointError(
                f"{what}: expected changes of {len(modules)} modules, found {len(found)}; {len(strange)} differ, such "
                f"as {', '.join(strange[:3])}"
            )
    network.load_state_dict(merged(network.state_dict(), lora, what), strict=True, assign=True)
    network.requires_grad_(False)


def merged(state: Mapping[str, Tensor], lora: Mapping[str, Tensor], what: str) -> StateDict:
    """`state` with every change of `lora` added in float32; W + B·A, as alpha is the rank wherever this is used.

    Raises CheckpointError for a name that is no half of a change, one without its other half, and one that has no
    weight of a fitting shape.
    """
    halves: dict[str, dict[str, Tensor]] = {}
    for key, value in lora.items():
        match = _HALF.match(key)
        if match is None:
            raise CheckpointError(f"{what}: expected names such as to_q.lora_A.weight, found {key}")
        halves.setdefault(match["module"], {})[match["half"] or _OLD[match["old"]]] = value
    if not halves:
        raise CheckpointError(f"{what}: expected low-rank changes by name, found none")
    changed = dict(state)
    for module, pair in halves.items():
        key = f"{module}.weight"
        if key not in state or pair.keys() != {"A", "B"}:
            raise CheckpointError(f"{what}: expected both halves of a change of a known module, found {module} alone")
        weight = state[key]
        change = pair["B"].float().flatten(1) @ pair["A"].float().flatten(1)
        if change.numel() != weight.numel() or len(change) != len(weight):
            raise CheckpointError(f"{what}: {key} is {tuple(weight.shape)}, its change {tuple(change.shape)}")
        changed[key] = weight.float() + change.reshape(weight.shape)
    return changed
