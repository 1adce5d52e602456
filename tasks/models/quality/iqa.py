"""Quality scores from local weight files: CLIPIQA, MUSIQ, MANIQA, LIQE and Q-Align through pyiqa, NIQE by itself.

Every builder gives a network in evaluation mode that maps RGB (N, 3, H, W) in [0, 1] to scores (N,). It raises
IQAUnavailableError when pyiqa is missing, FileNotFoundError when a file is, RuntimeError when a file holds another
network, pickle.UnpicklingError when it holds code.

pyiqa (chaofengc/IQA-PyTorch) is an extra: its licence is non-commercial. Left to itself it downloads weights and
unpickles them without restriction; here its networks are built bare and filled from files that were given, read
without running anything in them. The settings are those of the NTIRE 2025 protocol. The module knows nothing of
where files come from.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tasks.models.quality.niqe import Pristine, niqe

STUDIO_LUMA = (65.481, 128.553, 24.966)


class IQAUnavailableError(ImportError):
    """A score cannot be computed here: pyiqa, or something it needs, is missing."""


class Scorer(nn.Module):
    """Gives every metric's answer the same shape."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, rgb: Tensor) -> Tensor:
        scores: Tensor = self.net(rgb.contiguous())
        return scores.reshape(len(rgb)).float()


class NIQE(nn.Module):
    """NIQE with its pristine statistics as buffers."""

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.double())
        self.register_buffer("covariance", covariance.double())

    def forward(self, rgb: Tensor) -> Tensor:
        return niqe(rgb, Pristine(self.get_buffer("mean"), self.get_buffer("covariance")))


class StudioNIQE(NIQE):
    """NIQE on the luma of YCbCr between 16 and 235, as BasicSR takes it: another metric, higher by some tenths."""

    def forward(self, rgb: Tensor) -> Tensor:
        weights = torch.tensor(STUDIO_LUMA, device=rgb.device).view(1, 3, 1, 1)
        levels = ((rgb.float() * weights).sum(dim=1, keepdim=True) + 16).round()
        return super().forward((levels / 255).expand(-1, 3, -1, -1))


class OneByOne(nn.Module):
    """Runs a network that takes one picture at a time over a batch."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, rgb: Tensor) -> Tensor:
        return torch.cat([self.net(picture[None]).reshape(1) for picture in rgb])


def niqe_from(parameters: Path) -> nn.Module:
    """NIQE, the challenge's and pyiqa's, with the pristine statistics of an `.npz` file."""
    return _scorer(NIQE(*_pristine(parameters)))


def niqe_basicsr_from(parameters: Path) -> nn.Module:
    """NIQE as BasicSR takes it, with the pristine statistics of an `.npz` file."""
    return _scorer(StudioNIQE(*_pristine(parameters)))


def clipiqa_from(backbone: Path) -> nn.Module:
    """CLIPIQA with CLIP's RN50."""
    return _scorer(_architecture("clipiqa").CLIPIQA(backbone=str(backbone)))


def musiq_from(checkpoint: Path) -> nn.Module:
    """MUSIQ of any training set."""
    return _scorer(_fill(_architecture("musiq").MUSIQ(pretrained=False), checkpoint))


def maniqa_from(checkpoint: Path) -> nn.Module:
    """MANIQA trained on KonIQ."""
    module = _architecture("maniqa")
    bare = partial(module.timm.create_model, pretrained=False)
    with _replaced(module.timm, "create_model", lambda name, **_: bare(name)):
        net = module.MANIQA(train_dataset="koniq", scale=0.8, pretrained=False)
    return _scorer(_fill(net, checkpoint))


def liqe_from(backbone: Path, checkpoint: Path) -> nn.Module:
    """LIQE; its text features come from the text encoder of the checkpoint, so they are computed after it is filled."""
    module = _architecture("liqe")
    local = partial(module.load, str(backbone))
    with (
        TemporaryDirectory() as folder,
        _replaced(module, "DEFAULT_CACHE_DIR", folder),
        _replaced(module, "load", lambda name, device: local(device)),
    ):
        net = module.LIQE(pretrained=False)
    filled = _fill(net, checkpoint)
    with torch.no_grad():
        net.text_features = net.get_text_features(net.joint_texts)
    return _scorer(filled)


def qalign_from(folder: Path) -> nn.Module:
    """Q-Align from the folder of OneAlign."""
    module = _architecture("qalign")
    with (
        _replaced(module, "MPLUGOwl2LlamaForCausalLM", _Local(module.MPLUGOwl2LlamaForCausalLM, folder)),
        _replaced(module, "CLIPImageProcessor", _Local(module.CLIPImageProcessor, folder)),
    ):
        return _scorer(OneByOne(module.QAlign()))


def _scorer(net: nn.Module) -> nn.Module:
    return Scorer(net).eval()


def _pristine(parameters: Path) -> tuple[Tensor, Tensor]:
    with np.load(parameters, allow_pickle=False) as file:
        return torch.from_numpy(file["mu_pris_param"]), torch.from_numpy(file["cov_pris_param"])


class _Local:
    """Stands for a class of transformers whose name on the hub is written into the code that calls it."""

    def __init__(self, original: Any, folder: Path) -> None:
        self._original, self._folder = original, folder

    def from_pretrained(self, _: str, **options: Any) -> Any:
        return self._original.from_pretrained(str(self._folder), local_files_only=True, **options)


def _architecture(name: str) -> Any:
    try:
        return importlib.import_module(f"pyiqa.archs.{name}_arch")
    except ImportError as error:
        raise IQAUnavailableError(
            f"{name} needs pyiqa and what it needs in turn ({error}): "
            "`make extras EXTRAS=iqa` in the project's folder; its licence is non-commercial"
        ) from error


def _fill(net: nn.Module, checkpoint: Path) -> nn.Module:
    """Strictly, from a file that may wrap its tensors in `params` and prefix their names with `module.`."""
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    state: Mapping[str, Tensor] = content.get("params", content)
    net.load_state_dict({key.removeprefix("module."): value for key, value in state.items()}, strict=True)
    return net


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Another value under `owner.name` for as long as the block lasts."""
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)
