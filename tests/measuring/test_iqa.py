"""Quality scores from local files: nothing is downloaded, nothing in a file is run, and what is missing is named."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from places import SHARED

from tasks.models.quality import iqa

PARITY = SHARED / "parity"
PRISTINE = SHARED / "data" / "weights" / "niqe_pris_params.npz"
needs_pyiqa = pytest.mark.skipif(importlib.util.find_spec("pyiqa") is None, reason="extra `iqa` not installed")


@pytest.fixture
def no_network(monkeypatch):
    """Whoever opens a connection fails the test."""
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("opened a connection"))


@pytest.fixture
def faces():
    return torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(0))


def fake(monkeypatch, name, **contents):
    """A stand-in for one of pyiqa's modules."""
    for part in ("pyiqa", "pyiqa.archs"):
        monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
    module = types.ModuleType(f"pyiqa.archs.{name}_arch")
    vars(module).update(contents)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


class Bare(torch.nn.Module):
    """A network of one number that remembers how it was built."""

    built: dict

    def __init__(self, **options):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        type(self).built = options

    def forward(self, x):
        return self.weight * x.mean(dim=(1, 2, 3))[:, None]


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    (tmp_path / "musiq.pth").touch()
    with pytest.raises(iqa.IQAUnavailableError, match=r"EXTRAS=iqa.*non-commercial"):
        iqa.musiq_from(tmp_path / "musiq.pth")


@pytest.mark.skipif(not PRISTINE.is_file(), reason=f"{PRISTINE} is not there")
def test_niqe_needs_no_pyiqa(faces, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    scorer = iqa.niqe_from(PRISTINE)
    smooth = torch.nn.functional.avg_pool2d(faces, 5, 1, 2)
    assert scorer(faces).shape == (2,)
    assert torch.allclose(scorer(faces)[1:], scorer(faces[1:]))
    assert not torch.allclose(scorer(faces), scorer(smooth))


@pytest.mark.skipif(not PARITY.is_dir(), reason=f"parity fixtures are not at {PARITY}")
def test_both_kinds_of_niqe_are_told_apart():
    """pyiqa's, the challenge's, and BasicSR's, on the same parameters and pictures."""
    facts = json.loads((PARITY / "niqe.json").read_text())
    with np.load(PARITY / "niqe_images.npz") as pictures:
        for name in ("a", "b"):
            rgb = torch.from_numpy(pictures[name].transpose(2, 0, 1).copy())[None].float() / 255
            assert float(iqa.niqe_from(PRISTINE)(rgb)) == pytest.approx(facts[name]["pyiqa_niqe"], abs=1e-4)
            basicsr = facts["basicsr_1.4.2_niqe"][name]
            assert float(iqa.niqe_basicsr_from(PRISTINE)(rgb)) == pytest.approx(basicsr, abs=1e-3)
            assert abs(basicsr - facts[name]["pyiqa_niqe"]) > 0.1


def test_the_other_niqe_differs_by_its_luma_alone(tmp_path, faces):
    np.savez(tmp_path / "niqe.npz", mu_pris_param=np.full((1, 36), 0.5), cov_pris_param=np.eye(36))
    weights = torch.tensor([65.481, 128.553, 24.966]).view(1, 3, 1, 1)
    grey = (((faces * weights).sum(1, keepdim=True) + 16).round() / 255).expand(-1, 3, -1, -1)
    niqe, other = (build(tmp_path / "niqe.npz") for build in (iqa.niqe_from, iqa.niqe_basicsr_from))
    assert torch.equal(other(faces), niqe(grey))
    assert not torch.allclose(other(faces), niqe(faces), atol=1e-3)


def test_files_are_read_without_running_them(tmp_path, monkeypatch):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'executed'}",)

    fake(monkeypatch, "musiq", MUSIQ=Bare)
    torch.save({"weight": torch.ones(1), "more": Evil()}, tmp_path / "musiq.pth")
    with pytest.raises(pickle.UnpicklingError):
        iqa.musiq_from(tmp_path / "musiq.pth")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("wrapped", [True, False])
def test_networks_are_built_bare_and_filled(tmp_path, monkeypatch, faces, wrapped):
    fake(monkeypatch, "musiq", MUSIQ=Bare)
    state = {"module.weight": torch.full((1,), 2.0)}
    torch.save({"params": state} if wrapped else state, tmp_path / "musiq.pth")
    scorer = iqa.musiq_from(tmp_path / "musiq.pth")
    assert Bare.built == {"pretrained": False}
    assert not scorer.training
    assert torch.allclose(scorer(faces), 2 * faces.mean(dim=(1, 2, 3)))


def test_another_network_is_refused(tmp_path, monkeypatch):
    fake(monkeypatch, "musiq", MUSIQ=Bare)
    torch.save({"bias": torch.ones(1)}, tmp_path / "musiq.pth")
    with pytest.raises(RuntimeError, match="Missing key"):
        iqa.musiq_from(tmp_path / "musiq.pth")


def test_maniqa_builds_its_transformer_without_fetching(tmp_path, monkeypatch):
    asked = []
    timm = types.SimpleNamespace(create_model=lambda name, pretrained: asked.append((name, pretrained)))
    original = timm.create_model

    class MANIQA(Bare):
        def __init__(self, **options):
            super().__init__(**options)
            timm.create_model("vit_base_patch8_224", pretrained=True)

    fake(monkeypatch, "maniqa", MANIQA=MANIQA, timm=timm)
    torch.save({"weight": torch.ones(1)}, tmp_path / "maniqa.pt")
    iqa.maniqa_from(tmp_path / "maniqa.pt")
    assert asked == [("vit_base_patch8_224", False)]
    assert timm.create_model is original
    assert MANIQA.built == {"train_dataset": "koniq", "scale": 0.8, "pretrained": False}


def test_liqe_describes_quality_with_the_weights_it_was_given(tmp_path, monkeypatch):
    caches, backbones = [], []

    class LIQE(Bare):
        def __init__(self, **options):
            super().__init__(**options)
            caches.append(module.DEFAULT_CACHE_DIR)
            module.load("ViT-B/32", "cpu")
            self.joint_texts = torch.ones(1)
            self.text_features = self.get_text_features(self.joint_texts)

        def get_text_features(self, texts):
            return self.weight.detach() * texts

    module = fake(
        monkeypatch, "liqe", LIQE=LIQE, DEFAULT_CACHE_DIR="/common", load=lambda *given: backbones.append(given)
    )
    (tmp_path / "clip.pt").touch()
    torch.save({"params": {"weight": torch.full((1,), 3.0)}}, tmp_path / "liqe.pt")
    scorer = iqa.liqe_from(tmp_path / "clip.pt", tmp_path / "liqe.pt")
    assert float(scorer.net.text_features) == 3
    assert backbones == [(str(tmp_path / "clip.pt"), "cpu")]
    assert module.DEFAULT_CACHE_DIR == "/common"
    assert caches[0] != "/common"
    assert not Path(caches[0]).exists()


def test_qalign_reads_the_folder_it_was_given(tmp_path, monkeypatch, faces):
    opened = []

    class Class:
        @staticmethod
        def from_pretrained(name, **options):
            opened.append((name, options["local_files_only"]))

    class QAlign(Bare):
        def __init__(self):
            super().__init__()
            module.MPLUGOwl2LlamaForCausalLM.from_pretrained("q-future/one-align", torch_dtype=None)
            module.CLIPImageProcessor.from_pretrained("q-future/one-align", trust_remote_code=True)

        def forward(self, x):
            assert len(x) == 1
            return x.mean()

    module = fake(monkeypatch, "qalign", QAlign=QAlign, MPLUGOwl2LlamaForCausalLM=Class, CLIPImageProcessor=Class)
    scorer = iqa.qalign_from(tmp_path)
    assert opened == [(str(tmp_path), True)] * 2
    assert module.CLIPImageProcessor is Class
    assert torch.allclose(scorer(faces), faces.mean(dim=(1, 2, 3)))


@needs_pyiqa
class TestWithPyiqa:
    """Random weights, in the layouts of the published files, through the real package."""

    def test_musiq_equals_pyiqas_own(self, tmp_path, faces, no_network):
        from pyiqa.archs.musiq_arch import MUSIQ

        torch.manual_seed(0)
        original = MUSIQ(pretrained=False).eval()
        torch.save(original.state_dict(), tmp_path / "musiq.pth")
        scorer = iqa.musiq_from(tmp_path / "musiq.pth")
        with torch.inference_mode():
            assert torch.allclose(scorer(faces), original(faces).flatten(), atol=1e-5)
            assert torch.allclose(scorer(faces)[:1], scorer(faces[:1]), atol=1e-4)

    def test_clipiqa_needs_its_backbone_only(self, tmp_path, faces, no_network):
        from pyiqa.archs.clip_model import CLIP

        torch.manual_seed(0)
        clip = CLIP(64, 224, (1, 1, 1, 1), 16, None, 77, 49408, 64, 1, 1)
        _save_as_program(clip.state_dict(), tmp_path / "RN50.pt")
        scorer = iqa.clipiqa_from(tmp_path / "RN50.pt")
        with torch.inference_mode():
            scores = scorer(faces)
        assert scores.shape == (2,)
        assert ((scores > 0) & (scores < 1)).all()

    def test_liqe_uses_both_files_and_no_common_cache(self, tmp_path, faces, no_network):
        from pyiqa.archs import liqe_arch
        from pyiqa.archs.clip_model import CLIP

        before, after = (CLIP(64, 224, 1, 64, 32, 77, 49408, 64, 1, 1).float() for _ in range(2))
        _save_as_program(before.state_dict(), tmp_path / "ViT-B-32.pt")
        state = {f"clip_model.{key}": value for key, value in after.state_dict().items()}
        torch.save({"params": state}, tmp_path / "liqe.pt")
        scorer = iqa.liqe_from(tmp_path / "ViT-B-32.pt", tmp_path / "liqe.pt")
        assert not (Path(liqe_arch.DEFAULT_CACHE_DIR) / "liqe_text_feat.pt").exists()
        with torch.inference_mode():
            text = after.encode_text(scorer.net.joint_texts)
            assert torch.allclose(scorer.net.text_features, text / text.norm(dim=1, keepdim=True), atol=1e-5)
            assert ((scorer(faces) > 1) & (scorer(faces) < 5)).all()

    def test_maniqa_takes_every_number_from_its_file(self, tmp_path, no_network):
        from pyiqa.archs import maniqa_arch

        with iqa._replaced(maniqa_arch.timm, "create_model", _bare_transformer(maniqa_arch.timm.create_model)):
            original = maniqa_arch.MANIQA(train_dataset="koniq", scale=0.8, pretrained=False)
        torch.save(original.state_dict(), tmp_path / "maniqa.pt")
        scorer = iqa.maniqa_from(tmp_path / "maniqa.pt")
        filled = scorer.net.state_dict()
        assert all(torch.equal(filled[key], value) for key, value in original.state_dict().items())


class _Holder(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def _save_as_program(state, path):
    """As TorchScript, the layout of CLIP's published files."""
    root = _Holder()
    for key, value in state.items():
        owner = root
        *parents, name = key.split(".")
        for parent in parents:
            if parent not in owner._modules:
                owner.add_module(parent, _Holder())
            owner = owner._modules[parent]
        owner.register_buffer(name, value)
    with warnings.catch_warnings(action="ignore"):
        torch.jit.script(root).save(str(path))


def _bare_transformer(create):
    return lambda name, **_: create(name, pretrained=False)
