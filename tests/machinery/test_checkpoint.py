"""Checkpoints of any origin: wrappings undone, truncation and other networks named, code in them never run."""

from __future__ import annotations

import pickle
import sys
import types
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from evil_checkpoints import Evil, save_evil
from safetensors.torch import load_file, save_file

from infra.weights.checkpoint import convert, load_checkpoint, load_into, load_state_dict
from infra.weights.errors import WeightsCorrupt, WeightsMismatch, WeightsMissing, WeightsUnsafe


@contextmanager
def foreign_class(module_name):
    """A class of a package that is not installed, as training frameworks leave in checkpoints."""
    module = types.ModuleType(module_name)
    module.Left = type("Left", (), {"__module__": module_name, "__qualname__": "Left"})
    parents = module_name.split(".")
    names = [".".join(parents[: depth + 1]) for depth in range(len(parents))]
    sys.modules.update({name: types.ModuleType(name) for name in names[:-1]}, **{module_name: module})
    try:
        yield module.Left
    finally:
        for name in names:
            del sys.modules[name]


class TestCheckpoints:
    @pytest.mark.parametrize("wrapper", ["state_dict", "params_ema", "params", "model", None])
    def test_wrappings_are_undone(self, tmp_path, wrapper):
        state = {"module.w": torch.ones(2), "module.b": torch.zeros(1)}
        torch.save({wrapper: state} if wrapper else state, tmp_path / "net.pth")
        assert sorted(load_state_dict(tmp_path / "net.pth", expect="a net")) == ["b", "w"]

    def test_a_prefix_that_not_all_have_stays(self, tmp_path):
        torch.save({"module.w": torch.ones(2), "w": torch.ones(2)}, tmp_path / "net.pth")
        assert sorted(load_state_dict(tmp_path / "net.pth", expect="a net")) == ["module.w", "w"]

    @pytest.mark.parametrize("zipped", [True, False])
    def test_numpy_is_harmless(self, tmp_path, zipped):
        content = {"psnr": np.float64(31.5), "step": np.int64(3), "mean": np.arange(4.0), "cov": np.eye(3, dtype="f4")}
        torch.save(content, tmp_path / "net.pk", _use_new_zipfile_serialization=zipped)
        found = load_checkpoint(tmp_path / "net.pk", expect="statistics")
        assert all(np.array_equal(found[key], value) for key, value in content.items())

    def test_classes_left_by_training_frameworks_are_replaced_by_nothing(self, tmp_path):
        with foreign_class("pytorch_lightning.callbacks.invented") as left:
            one = left()
            one.secret = 1
            torch.save({"state_dict": {"w": torch.ones(2)}, "callbacks": {left: one}}, tmp_path / "net.ckpt")
        assert list(load_state_dict(tmp_path / "net.ckpt", expect="a net")) == ["w"]

    def test_other_foreign_classes_are_refused(self, tmp_path):
        with foreign_class("unheard_of.package") as left:
            torch.save({"state_dict": {"w": torch.ones(2)}, "x": left()}, tmp_path / "net.ckpt")
        with pytest.raises(WeightsUnsafe, match=r"unheard_of\.package\.Left"):
            load_state_dict(tmp_path / "net.ckpt", expect="a net")

    @pytest.mark.parametrize("zipped", [True, False])
    def test_code_is_named_and_not_run(self, tmp_path, zipped):
        path = save_evil(tmp_path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(WeightsUnsafe, match=r"expected a net.*(posix|nt)\.system.*nothing was run"):
            load_state_dict(path, expect="a net")
        assert not (tmp_path / "executed").exists()

    @pytest.mark.parametrize("protocol", [2, 4])
    @pytest.mark.filterwarnings("ignore:Detected pickle protocol")
    def test_bare_pickles_are_not_run(self, tmp_path, protocol):
        (tmp_path / "net.pkl").write_bytes(pickle.dumps({"w": Evil(tmp_path / "executed")}, protocol=protocol))
        with pytest.raises(WeightsUnsafe):
            load_state_dict(tmp_path / "net.pkl", expect="a net")
        assert not (tmp_path / "executed").exists()

    def test_programs_are_not_run(self, tmp_path):
        with pytest.warns(FutureWarning):
            torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "net.pt"))
        with pytest.raises(WeightsUnsafe, match="TorchScript"):
            load_state_dict(tmp_path / "net.pt", expect="a net")

    @pytest.mark.parametrize("kept", [0, 1, 100, 1500, -1])
    @pytest.mark.parametrize("kind", ["net.pth", "old.pth", "net.safetensors"])
    def test_truncated_files_are_corrupt(self, tmp_path, kind, kept):
        state = {"w": torch.rand(40, 40)}
        if kind == "net.safetensors":
            save_file(state, tmp_path / kind)
        else:
            torch.save(state, tmp_path / kind, _use_new_zipfile_serialization=kind == "net.pth")
        (tmp_path / kind).write_bytes((tmp_path / kind).read_bytes()[:kept])
        with pytest.raises((WeightsCorrupt, WeightsUnsafe), match="expected a net"):
            load_state_dict(tmp_path / kind, expect="a net")

    def test_a_web_page_is_corrupt(self, tmp_path):
        (tmp_path / "net.pth").write_text("<html>Virus scan warning</html>")
        with pytest.raises(WeightsCorrupt, match="<html>"):
            load_state_dict(tmp_path / "net.pth", expect="a net")

    @pytest.mark.parametrize("content", [torch.ones(2), {"epoch": 3}, {}])
    def test_other_contents_are_a_mismatch(self, tmp_path, content):
        torch.save(content, tmp_path / "net.pth")
        with pytest.raises(WeightsMismatch, match="expected a net"):
            load_state_dict(tmp_path / "net.pth", expect="a net")

    def test_absence_is_missing(self, tmp_path):
        with pytest.raises(WeightsMissing, match="expected a net"):
            load_state_dict(tmp_path / "net.pth", expect="a net")

    def test_another_architecture_is_a_mismatch(self, tmp_path):
        torch.save({"weight": torch.ones(3, 3), "extra": torch.ones(1)}, tmp_path / "net.pth")
        with pytest.raises(WeightsMismatch, match=r"(?s)a linear layer.*bias.*extra") as caught:
            load_into(torch.nn.Linear(2, 2), tmp_path / "net.pth", expect="a linear layer")
        assert str(tmp_path / "net.pth") in str(caught.value)

    def test_conversion_keeps_values_shared_or_not(self, tmp_path):
        shared = torch.rand(4, 6)
        state = {"a": shared, "b": shared, "part": shared[1:2], "turned": shared.T}
        torch.save(state, tmp_path / "net.pth")
        convert(tmp_path / "net.pth", tmp_path / "net.safetensors", expect="a net", notes={"source_file": "net.pth"})
        converted = load_file(tmp_path / "net.safetensors")
        assert all(torch.equal(converted[key], value) for key, value in state.items())
