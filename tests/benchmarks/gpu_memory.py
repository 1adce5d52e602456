"""How much GPU memory each full-size network of MPSR takes: its weights, and what lives at once while it works.

    python tests/benchmarks/gpu_memory.py

Needs neither GPU nor memory: the networks run on tensors without data, and every storage that an operation makes is
counted from its birth to its end. Attention is counted as the fused kernels have it, without its matrix. What cuDNN
takes for itself while it convolves is not seen. The `parameters_m` and `working_gb` of the stages come from here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import full_networks as networks
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from tasks.models.diffusion.diffbir import DiffBIRSettings
from tasks.models.diffusion.noise import SeededNoise
from tasks.models.faces.adaface import AdaFace
from tasks.models.faces.parsenet import ParseNet
from tasks.models.restorers.face_tone_net import tone
from tasks.models.restorers.ffa_net import dehaze
from tasks.models.restorers.gfpgan import restore as restore_gfpgan

SIDE = 512


class Peak(TorchDispatchMode):
    """Adds up the bytes of the storages that are alive, and remembers the most there ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_flatten(result)[0]:
            if isinstance(tensor, Tensor) and tensor.device.type == "meta":
                storage = tensor.untyped_storage()
                self.alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.alive = {key: entry for key, entry in self.alive.items() if not entry[0].expired()}
        self.most = max(self.most, sum(size for _, size in self.alive.values()))
        return result


def fused_attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    """What a fused kernel leaves: the result, and no matrix."""
    return query.new_empty(*query.shape[:-1], value.shape[-1])


def working_gb(run: Callable[[Tensor], Any], batch: int, dtype: torch.dtype = torch.float32) -> float:
    """GB alive at once beside the weights while `run` handles `batch` faces."""
    with torch.inference_mode(), Peak() as peak:
        run(torch.empty(batch, 3, SIDE, SIDE, device="meta", dtype=dtype))
    return peak.most / 1e9


def parameters(network: nn.Module) -> float:
    """Millions."""
    return sum(value.numel() for value in network.parameters()) / 1e6


def line(name: str, network: nn.Module, run: Callable[[Tensor], Any], dtype: torch.dtype = torch.float32) -> None:
    """One network: its parameters, and GB at work for one face and for four."""
    one, four = (working_gb(run, batch, dtype) for batch in (1, 4))
    print(f"| {name:22} | {str(dtype)[6:]:8} | {parameters(network):7.1f} | {one:6.2f} | {four:6.2f} |", flush=True)


def main() -> None:
    """Prints the table."""
    torch.nn.functional.scaled_dot_product_attention = fused_attention
    print("| network | dtype | million parameters | GB at work, 1 face | 4 faces |\n|---|---|---|---|---|")
    two_steps = DiffBIRSettings(steps=2)
    for dtype in (torch.float32, torch.bfloat16):
        pisa = networks.pisa_sr("meta", tiny=False).to(dtype)
        line("PiSA-SR", pisa, lambda x, net=pisa: net.restore(x, SeededNoise(range(len(x)))), dtype)
        diffbir = networks.diffbir("v2", "meta", tiny=False).to(dtype)
        line("DiffBIR v2", diffbir, lambda x, net=diffbir: net.restore(x, two_steps, SeededNoise(range(len(x)))), dtype)
    for name, network, run in (
        ("FFA-Net", networks.ffa_net("meta", tiny=False), dehaze),
        ("GFPGAN", networks.gfpgan("meta"), restore_gfpgan),
        ("FaceToneNet", networks.face_tone_net("meta", tiny=False), tone),
        ("ParseNet", networks.filled(ParseNet, "meta"), lambda net, x: net(x)),
        ("AdaFace IR-50", networks.filled(lambda: AdaFace("ir_50"), "meta"), lambda net, x: net(x[..., :112, :112])),
    ):
        line(name, network, lambda x, net=network, go=run: go(net, x))


if __name__ == "__main__":
    main()
