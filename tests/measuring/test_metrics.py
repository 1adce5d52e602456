"""The meter: right numbers, the same whatever the neighbours, and names for everything that cannot be measured."""

from __future__ import annotations

import subprocess
import sys
import types
from dataclasses import replace

import cv2
import numpy as np
import pytest
import tiny_metrics as tiny
import torch
from places import ROOT
from torchvision.models import alexnet

from infra.weights.store import open_store
from infra.weights.table import WeightsTable
from tasks.faces import geometry
from tasks.measuring import formulas as full_reference
from tasks.measuring import meter as metering
from tasks.measuring import metrics
from tasks.measuring.instruments import FacePair
from tasks.measuring.meter import Meter, Unmeasurable, resolve
from tasks.measuring.metrics import METRICS, UnknownMetric, weights_of
from tasks.models.quality.lpips import CONVOLUTIONS, SCALE, SHIFT, lpips_for

HERE = ("niqe", "quality", "sharpness", "identity", "psnr", "ssim", "lpips", "identity_truth", "fid")
POINTS = geometry.TEMPLATE


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    return open_store(folder, tiny.write_store(folder))


@pytest.fixture(scope="module")
def meter(store):
    return meter_of(store, HERE)


@pytest.fixture(scope="module")
def measured(meter):
    return meter.measure(PAIR)


def meter_of(store, names):
    return Meter(names, {name: store.path(name) for name in weights_of(names)})


def picture(seed, side=512, cells=7):
    """Somebody: a few large patches, smooth between them, with some grain."""
    rng = np.random.default_rng(seed)
    patches = cv2.resize(rng.random((cells, cells, 3), np.float32), (side, side), interpolation=cv2.INTER_LINEAR)
    grain = rng.normal(0, 0.02, (side, side, 3)).astype(np.float32)
    return (np.rint((patches * 0.8 + 0.1 + grain).clip(0, 1) * 255) / 255).astype(np.float32)


def blurred(image, sigma=3.0):
    return cv2.GaussianBlur(image, (0, 0), sigma)


ME, OTHER = picture(1), picture(2)
PAIR = FacePair(*[picture(1, 256)] * 3, POINTS)


class TestTable:
    def test_every_file_is_in_the_table_of_weights(self):
        table = WeightsTable.load()
        for metric in METRICS.values():
            assert all(name in table for name in (*metric.weights, *metric.set_weights)), metric.name

    def test_the_challenges_files_are_pulled_with_one_word(self):
        table = WeightsTable.load()
        wanted = {
            file
            for name in metrics.challenge_metrics()
            for file in (*METRICS[name].weights, *METRICS[name].set_weights)
        }
        listed = {name for name, row in table.items() if {"evaluate", "mpsr-ntire2025"} & set(row.recipes)}
        assert wanted <= listed

    def test_neither_torch_nor_opencv_is_loaded_to_name_metrics(self):
        names = "tasks.measuring.metrics, tasks.measuring.challenge_files"
        code = f"import {names}, sys; print({{'torch', 'cv2', 'scipy'}} & set(sys.modules))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
        assert done.stdout.strip() == "set()", done.stderr


class TestResolve:
    def test_what_is_here_has_a_digest_and_what_is_not_a_sentence(self, store):
        found = resolve((), store, truth=True)
        assert set(found.present) == set(HERE)
        assert set(found.missing) == set(metrics.default_metrics(truth=True)) - set(HERE)
        assert len(set(found.present.values())) == len(HERE)
        assert found.weights["fid"].keys() == {"fid_inception", "fid_ffhq512"}
        for name in ("clipiqa", "maniqa", "musiq", "qalign"):
            assert METRICS[name].title in found.missing[name]
            assert METRICS[name].weights[0] in found.missing[name]

    def test_a_missing_package_is_named_with_the_command_and_its_terms(self, store, monkeypatch):
        monkeypatch.setattr(metering, "is_here", lambda extra: False)
        sentence = resolve(("musiq",), store, truth=False).missing["musiq"]
        assert "make extras EXTRAS=iqa" in sentence
        assert "non-commercial" in sentence

    def test_missing_files_are_named_with_the_command_of_the_real_table(self, tmp_path):
        missing = resolve(("niqe", "fid", "lpips", "identity"), open_store(tmp_path), truth=True).missing
        assert "mpsr models pull niqe_pristine" in missing["niqe"]
        assert "mpsr models pull fid_inception" in missing["fid"]
        assert "mpsr models pull fid_ffhq512" in missing["fid"]
        assert "mpsr models pull lpips_alexnet" in missing["lpips"]
        assert "mpsr models add adaface_ir50_ms1mv2" in missing["identity"]

    def test_without_truth_comparisons_with_it_are_missing_and_not_asked_for(self, store):
        assert "--truth DIR" in resolve(("psnr",), store, truth=False).missing["psnr"]
        assert "psnr" not in metrics.default_metrics(truth=False)

    def test_a_network_of_ones_own_is_never_called_adaface(self, tmp_path):
        store = open_store(tmp_path, tiny.write_store(tmp_path, without=("adaface_ir50_ms1mv2",)))
        assert not resolve(("identity",), store, truth=True).present
        (tmp_path / "face_embedding_onnx.bin").write_bytes(b"a network")
        found = resolve(("identity", "identity_truth"), store, truth=True)
        assert set(found.present) == {"identity_onnx", "identity_truth_onnx"}
        assert set(found.missing) == {"identity", "identity_truth"}
        assert found.weights["identity_onnx"].keys() == {"face_embedding_onnx"}

    def test_adaface_needs_no_substitute(self, store):
        assert set(resolve(("identity",), store, truth=False).present) == {"identity"}

    def test_digests_follow_files_but_not_the_statistics_of_sets(self, tmp_path):
        def digests():
            return resolve(("niqe", "fid", "psnr"), open_store(tmp_path, table), truth=True).present

        table = tiny.write_store(tmp_path)
        before = digests()
        np.savez(tmp_path / tiny.FILES["niqe_pristine"], mu_pris_param=np.zeros((1, 36)), cov_pris_param=np.eye(36))
        torch.save({"mean": np.ones(tiny.FEATURES), "cov": np.eye(tiny.FEATURES)}, tmp_path / tiny.FILES["fid_ffhq512"])
        for record in tmp_path.glob("*.sha256.json"):
            record.unlink()
        after = digests()
        assert {name for name in before if before[name] != after[name]} == {"niqe"}

    def test_digests_follow_the_version(self, store, monkeypatch):
        before = resolve(("sharpness",), store, truth=False).present
        monkeypatch.setitem(METRICS, "sharpness", replace(METRICS["sharpness"], version=2))
        assert resolve(("sharpness",), store, truth=False).present != before

    def test_unknown_names_are_refused_with_those_that_exist(self, store):
        with pytest.raises(UnknownMetric, match="known are niqe, clipiqa"):
            resolve(("beauty",), store, truth=False)
        with pytest.raises(ValueError, match="got none for niqe_pristine"):
            Meter(("niqe",), {})


class TestMeter:
    def test_every_metric_is_a_number_in_its_range(self, meter, measured):
        assert set(measured) == set(HERE) - {"fid"}
        assert measured["sharpness"] > 1
        assert measured["niqe"] > 0
        assert 0 < measured["quality"] < 1
        assert (measured["psnr"], measured["ssim"], measured["lpips"]) == (full_reference.ALIKE, pytest.approx(1), 0)
        assert measured["identity"] == measured["identity_truth"] == pytest.approx(1, abs=1e-5)
        features = meter.features(PAIR)
        assert (features.shape, features.dtype) == ((tiny.FEATURES,), np.float32)

    def test_nothing_depends_on_neighbours_order_or_meter(self, store, measured, meter):
        other = FacePair(picture(2, 256), PAIR.input, PAIR.truth, POINTS)
        fresh = meter_of(store, HERE)
        fresh.measure(other, ("niqe", "quality", "identity"))
        assert fresh.measure(PAIR, HERE[::-1]) == measured
        assert np.array_equal(fresh.features(PAIR), meter.features(PAIR))

    def test_a_part_can_be_asked_for(self, meter, store):
        assert set(meter.measure(PAIR, ("psnr", "fid", "niqe"))) == {"psnr", "niqe"}
        with pytest.raises(UnknownMetric, match="asked for clipiqa"):
            meter.measure(PAIR, ("clipiqa",))
        assert meter_of(store, ("psnr",)).features(PAIR) is None

    def test_better_pictures_score_better(self, meter, measured):
        worse = FacePair(blurred(PAIR.restored), PAIR.input, PAIR.truth, POINTS)
        bad = meter.measure(worse, ("sharpness", "psnr", "ssim", "lpips"))
        for name, value in bad.items():
            assert (measured[name] > value) == (METRICS[name].better == "higher"), name

    def test_networks_of_pyiqa_are_measured_through_their_files(self, tmp_path, monkeypatch):
        class MUSIQ(torch.nn.Module):
            def __init__(self, pretrained):
                super().__init__()
                self.weight = torch.nn.Parameter(torch.zeros(1))

            def forward(self, x):
                assert x.shape == (1, 3, 256, 256)
                return (self.weight * x.mean()).reshape(1, 1)

        for name in ("pyiqa", "pyiqa.archs", "pyiqa.archs.musiq_arch"):
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        sys.modules["pyiqa.archs.musiq_arch"].MUSIQ = MUSIQ
        torch.save({"weight": torch.full((1,), 2.0)}, tmp_path / "musiq.pth")
        meter = Meter(("musiq",), {"musiq_koniq": tmp_path / "musiq.pth"})
        assert meter.measure(PAIR)["musiq"] == pytest.approx(2 * PAIR.restored.mean(), rel=1e-5)

    def test_files_that_hold_something_else_cost_their_metric_and_no_other(self, tmp_path):
        table = tiny.write_store(tmp_path)
        (tmp_path / tiny.FILES["adaface_ir50_ms1mv2"]).unlink()
        tiny.write_alexnet(tmp_path / tiny.FILES["adaface_ir50_ms1mv2"])
        np.savez(tmp_path / tiny.FILES["niqe_pristine"], something=np.zeros(3))
        meter = meter_of(open_store(tmp_path, table), ("identity", "niqe", "quality"))
        for _ in range(2):
            with pytest.raises(Unmeasurable, match=r"identity: .*expected AdaFace IR-50"):
                meter.measure(PAIR, ("identity",))
        with pytest.raises(Unmeasurable, match=r"niqe: .*does not fit"):
            meter.measure(PAIR, ("niqe",))
        assert meter.measure(PAIR, ("quality",))

    def test_a_package_that_cannot_be_imported_is_said(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "pyiqa", None)
        (tmp_path / "musiq.pth").touch()
        meter = Meter(("musiq",), {"musiq_koniq": tmp_path / "musiq.pth"})
        with pytest.raises(Unmeasurable, match=r"musiq: .*EXTRAS=iqa"):
            meter.measure(PAIR)

    def test_what_one_face_does_not_allow_is_said(self, meter):
        tiny_face = FacePair(picture(3, 150), picture(3, 150), None, POINTS)
        with pytest.raises(Unmeasurable, match=r"niqe: .*192 px"):
            meter.measure(tiny_face, ("niqe",))
        with pytest.raises(Unmeasurable, match=r"psnr: .*has none"):
            meter.measure(tiny_face, ("psnr",))
        with pytest.raises(Unmeasurable, match="lpips: expected one size"):
            meter.measure(FacePair(ME, ME, picture(1, 256), POINTS), ("lpips",))
        with pytest.raises(Unmeasurable, match="identity: expected five distinct points"):
            meter.measure(FacePair(ME, ME, None, np.zeros((5, 2))), ("identity",))


class TestIdentity:
    """The stand-in for AdaFace compares 7×7 grey maps; crop, colour order and cosine are the protocol's own."""

    def identity(self, meter, restored, points=POINTS, truth=None):
        return meter.measure(FacePair(restored, blurred(ME), truth, points), ("identity",))["identity"]

    def test_the_same_person_is_near_and_another_is_not(self, meter):
        assert self.identity(meter, ME) > 0.95
        assert self.identity(meter, blurred(ME)) == pytest.approx(1, abs=1e-5)
        assert self.identity(meter, OTHER) < 0.3

    def test_both_are_cut_out_by_the_inputs_landmarks(self, meter):
        moved = np.roll(ME, (40, 40), axis=(0, 1))
        assert self.identity(meter, moved) < 0.8
        assert self.identity(meter, ME, points=POINTS + 40) > 0.95

    def test_truth_is_another_metric(self, meter):
        found = meter.measure(FacePair(OTHER, blurred(ME), OTHER, POINTS), ("identity", "identity_truth"))
        assert found["identity_truth"] == pytest.approx(1, abs=1e-5)
        assert found["identity"] < 0.3

    def test_the_crop_is_the_protocols(self):
        levels = (ME * 255).round().astype(np.uint8)
        points = POINTS * 0.9 + 30
        expected = geometry.crop(levels, geometry.recognition_matrix(points), 112, border=(0, 0, 0))
        found = geometry.recognition_crop(ME, points)
        assert found.dtype == np.float32
        assert np.array_equal((found * 255).round().astype(np.uint8), expected)
        outside = geometry.recognition_crop(ME, POINTS - 300)
        assert (outside[:20, :20] == 0).all()

    def test_an_aligned_face_is_cut_as_the_judges_learnt_it(self):
        matrix = [[0.292090042, 4.44976311e-05, -18.9301414], [-4.44976311e-05, 0.292090042, -17.8600205]]
        assert np.allclose(geometry.aligned_to_recognition(), matrix, rtol=1e-8)
        expected = cv2.warpAffine(cv2.GaussianBlur(ME, (0, 0), 1.4), geometry.aligned_to_recognition(), (112, 112))
        assert np.array_equal(geometry.recognition_crop(ME), expected.clip(0, 1))

    def test_a_picture_of_another_size_is_cut_alike(self):
        smooth = picture(5, 512)
        half = cv2.resize(smooth, (256, 256), interpolation=cv2.INTER_AREA)
        assert np.abs(geometry.recognition_crop(half, POINTS) - geometry.recognition_crop(smooth, POINTS)).mean() < 0.02


class TestFullReference:
    def test_psnr_by_hand(self):
        flat = np.full((16, 16, 3), 0.5, np.float32)
        assert full_reference.psnr(flat, flat + 0.1) == pytest.approx(20, abs=1e-4)
        assert full_reference.psnr(flat, flat + 0.01) == pytest.approx(40, abs=1e-3)
        one_channel = flat.copy()
        one_channel[..., 0] += 0.1
        assert full_reference.psnr(flat, one_channel) == pytest.approx(20 + 10 * np.log10(3), abs=1e-4)

    def test_pictures_that_hardly_differ_stay_within_the_scale(self):
        flat = np.full((16, 16, 3), 0.5, np.float32)
        assert full_reference.psnr(flat, flat + 1e-7) == full_reference.ALIKE

    def test_ssim_of_flat_pictures_is_its_luminance_term(self):
        dark, light = np.full((32, 32, 3), 0.25, np.float32), np.full((32, 32, 3), 0.75, np.float32)
        expected = (2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4)
        assert full_reference.ssim(dark, light) == pytest.approx(expected, abs=1e-5)

    def test_ssim_falls_with_structure_rather_than_with_light(self):
        detail = picture(4, 64, cells=32)
        assert full_reference.ssim(detail, detail) == pytest.approx(1)
        assert full_reference.ssim(detail, blurred(detail)) < full_reference.ssim(detail, detail * 0.97)

    def test_sizes_must_agree(self):
        with pytest.raises(ValueError, match="got 8×16 and 16×16"):
            full_reference.psnr(np.zeros((16, 16, 3), np.float32), np.zeros((16, 8, 3), np.float32))
        with pytest.raises(ValueError, match="at least 11 px, got 8×8"):
            full_reference.ssim(np.zeros((8, 8, 3), np.float32), np.zeros((8, 8, 3), np.float32))


class TestLPIPS:
    @pytest.fixture
    def faces(self):
        return torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(4))

    def test_features_are_torchvisions_alexnet(self, faces):
        """The definition written out, on torchvision's own network."""
        with torch.device("meta"):
            features = alexnet(weights=None).features
        features = tiny.randomised(features, 0)
        backbone = {f"features.{key}": value for key, value in features.state_dict().items()}
        weights = {f"lin{n}.model.1.weight": torch.rand(1, w, 1, 1) for n, w in enumerate((64, 192, 384, 256, 256))}
        shift, scale = (torch.tensor(values).view(1, 3, 1, 1) for values in (SHIFT, SCALE))

        def layers(x):
            x = (2 * x - 1 - shift) / scale
            for place, layer in enumerate(features):
                x = layer(x)
                if place - 1 in CONVOLUTIONS:
                    yield torch.nn.functional.normalize(x)

        with torch.inference_mode():
            pairs = zip(layers(faces[:1]), layers(faces[1:]), weights.values(), strict=True)
            expected = sum(float(((a - b) ** 2 * w).sum(1).mean()) for a, b, w in pairs)
            found = lpips_for(backbone, weights)(faces[:1], faces[1:])
        assert found.shape == (1,)
        assert float(found) == pytest.approx(expected, rel=1e-4)

    def test_it_is_a_distance(self, store, faces):
        files = [torch.load(store.path(name), weights_only=True) for name in ("lpips_alexnet", "lpips_alex")]
        with torch.inference_mode():
            net = lpips_for(*files)
            assert torch.equal(net(faces, faces), torch.zeros(2))
            assert torch.allclose(net(faces, faces.flip(0)), net(faces.flip(0), faces))
            assert (net(faces, faces.flip(0)) > 0).all()

    def test_another_network_is_refused(self, store):
        layers = torch.load(store.path("lpips_alex"), weights_only=True)
        with pytest.raises((KeyError, RuntimeError)):
            lpips_for(layers, layers)
