"""Files for metrics in tests, in the layouts of the published ones: small, quick, and a pure function of nothing.

AdaFace has its real shapes in a file of 100 kB, because equal numbers are stored once; it is made so that it compares
7×7 grey maps of faces, which tells people in different light or place apart. The rest is random.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from tasks.models.faces.adaface import AdaFace
from tasks.models.quality.fid_inception import FidInception
from tasks.models.quality.lpips import CONVOLUTIONS, LPIPS

NARROW = 16
FEATURES = 2048 // NARROW
FILES = {
    "niqe_pristine": "niqe.npz",
    "adaface_ir50_ms1mv2": "adaface.ckpt",
    "fid_inception": "inception.pth",
    "fid_ffhq512": "ffhq.pth",
    "lpips_alexnet": "alexnet.pth",
    "lpips_alex": "alex.pth",
}
PACKAGED = """
[[weights]]
name = "compact_quality"
title = "the compact quality score"
file = "quality.safetensors"
package = "tasks/models/weights/quality.safetensors"
licence = "test"
"""
NEVER_HERE = ("clip_rn50", "maniqa_koniq", "musiq_koniq", "one_align", "clip_vit_b32", "liqe_koniq")


def write_store(folder: Path, without: tuple[str, ...] = ()) -> Path:
    """A folder of weights for every metric that needs no pyiqa, but `without` some; returns its table."""
    folder.mkdir(parents=True, exist_ok=True)
    writers = {
        "niqe_pristine": write_niqe,
        "adaface_ir50_ms1mv2": write_adaface,
        "fid_inception": write_fid_inception,
        "fid_ffhq512": write_fid_statistics,
        "lpips_alexnet": write_alexnet,
        "lpips_alex": write_lpips_layers,
    }
    for name, write in writers.items():
        if name not in without:
            write(folder / FILES[name])
    absent = {name: f"{name}.bin" for name in (*NEVER_HERE, "face_embedding_onnx")}
    rows = [
        f'[[weights]]\nname = "{name}"\ntitle = "tiny {name}"\nfile = "{file}"\nby_hand = "Test."\nlicence = "test"\n'
        for name, file in {**FILES, **absent}.items()
    ]
    table = folder / "table.toml"
    table.write_text('[licences.test]\ntitle = "test"\ncommercial = "yes"\n' + "".join(rows) + PACKAGED)
    return table


def write_niqe(path: Path) -> None:
    """Pristine statistics that no photograph has."""
    np.savez(path, mu_pris_param=np.full((1, 36), 0.5), cov_pris_param=0.1 * np.eye(36))


def write_adaface(path: Path) -> None:
    """IR-50: blur, every 16th pixel, grey, minus the mean."""
    with torch.device("meta"):
        shapes = AdaFace("ir_50").state_dict()
    nothing, one = torch.tensor(0.0), torch.tensor(1.0)
    state = {key: nothing.expand(value.shape) for key, value in shapes.items()}
    for key, value in shapes.items():
        if key.endswith("running_var") or (".shortcut_layer.1.weight" in key) or key.endswith("output_layer.0.weight"):
            state[key] = one.expand(value.shape)
        if key.endswith("shortcut_layer.0.weight"):
            state[key] = torch.eye(*value.shape[:2])[..., None, None]
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(0)
    first = torch.zeros(64, 3, 3, 3)
    first[range(3), range(3)] = 1 / 9
    state["input_layer.0.weight"] = first
    for key in ("input_layer.1.weight", "input_layer.2.weight"):
        state[key] = one.expand(shapes[key].shape)
    rows, columns = shapes["output_layer.3.weight"].shape
    period = torch.arange(rows + columns) % 49 == 0
    state["output_layer.3.weight"] = (period.float() - 1 / 49).as_strided((rows, columns), (1, 1))
    torch.save({"state_dict": {f"model.{key}": value for key, value in state.items()}}, path)


def write_fid_inception(path: Path) -> None:
    """The network of pytorch-fid with a sixteenth of its widths."""
    torch.save(randomised(FidInception(NARROW), 1).state_dict(), path)


def write_fid_statistics(path: Path) -> None:
    """Numpy arrays in a torch file, like the published statistics."""
    torch.save({"mean": np.zeros(FEATURES, np.float32), "cov": np.eye(FEATURES)}, path)


def write_alexnet(path: Path) -> None:
    """torchvision's names, few channels, and a classifier that LPIPS does not want."""
    state = randomised(LPIPS((4, 5, 6, 7, 8)), 2).state_dict()
    backbone = {key: value for key, value in state.items() if key.startswith("features.")}
    torch.save({**backbone, "classifier.1.weight": torch.zeros(2, 2)}, path)


def write_lpips_layers(path: Path) -> None:
    """Five linear layers, none of them negative."""
    widths = enumerate((4, 5, 6, 7, 8)[: len(CONVOLUTIONS)])
    torch.save({f"lin{n}.model.1.weight": torch.full((1, width, 1, 1), 0.1 + n) for n, width in widths}, path)


def randomised(net: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Weights that keep signals alive, whatever the depth; a network on the meta device becomes a real one."""
    generator = torch.Generator().manual_seed(seed)
    if any(value.is_meta for value in net.parameters()):
        net = net.to_empty(device="cpu")
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.BatchNorm2d) and module.bias is not None:
            module.bias.data.zero_()
        if isinstance(module, torch.nn.Conv2d):
            fan = module.weight[0].numel()
            module.weight.data = torch.randn(module.weight.shape, generator=generator) * (2 / fan) ** 0.5
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.fill_(1)
            module.num_batches_tracked.zero_()
            module.running_mean.data = 0.1 * torch.randn(module.num_features, generator=generator)
            module.running_var.data = 0.5 + torch.rand(module.num_features, generator=generator)
    return net.eval()
