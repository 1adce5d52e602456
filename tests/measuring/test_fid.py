"""FID: the network is the published one's in names, shapes and wiring, the distance holds in closed form."""

from __future__ import annotations

import hashlib
import os

import numpy as np
import pytest
import tiny_metrics as tiny
import torch
from torch import nn
from torchvision.models import inception_v3

from infra.weights.checkpoint import load_state_dict
from infra.weights.errors import WeightsMismatch, WeightsUnsafe
from tasks.measuring.fid import Gaussian, fid_of, frechet_distance, gaussian, load_gaussian
from tasks.models.quality.fid_inception import FidInception, inception_for

AVERAGED = ("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7b")
FACTS = {
    "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
    "Conv2d_4a_3x3.conv.weight": (192, 80, 3, 3),
    "Mixed_5b.branch_pool.conv.weight": (32, 192, 1, 1),
    "Mixed_5d.branch5x5_2.conv.weight": (64, 48, 5, 5),
    "Mixed_6a.branch3x3.conv.weight": (384, 288, 3, 3),
    "Mixed_6c.branch7x7dbl_4.conv.weight": (160, 160, 7, 1),
    "Mixed_6e.branch7x7_2.bn.running_var": (192,),
    "Mixed_7a.branch7x7x3_4.conv.weight": (192, 192, 3, 3),
    "Mixed_7c.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1),
    "Mixed_7c.branch_pool.conv.weight": (192, 2048, 1, 1),
    "fc.weight": (1008, 2048),
}
"""Names and shapes of pt_inception-2015-12-05-6726825d.pth, by its architecture."""
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield
    torch.set_num_threads(threads)


def shapes(net):
    return {key: tuple(value.shape) for key, value in net.state_dict().items()}


class TestNetwork:
    def test_names_and_shapes_are_the_published_files(self):
        with torch.device("meta"):
            ours = FidInception()
            theirs = inception_v3(weights=None, aux_logits=False, num_classes=1008, init_weights=False)
        assert shapes(ours) == shapes(theirs)
        assert {key: shapes(ours)[key] for key in FACTS} == FACTS
        assert len(shapes(ours)) == 94 * 6 + 2
        assert sum(value.numel() for value in ours.parameters()) == 23_850_960

    def test_wiring_is_torchvisions_where_the_two_coincide(self):
        """With torchvision's pooling in place of its own, the whole network is torchvision's."""
        with torch.device("meta"):
            ours = FidInception()
            theirs = inception_v3(weights=None, aux_logits=False, num_classes=1008, init_weights=False).eval()
        ours = tiny.randomised(ours, 0)
        theirs.load_state_dict(ours.state_dict(), assign=True)
        theirs.fc = nn.Identity()
        picture = torch.rand(1, 3, 512, 512, generator=torch.Generator().manual_seed(0)) * 2 - 1
        small = nn.functional.interpolate(picture, (299, 299), mode="bilinear", align_corners=False, antialias=False)
        published = ours(picture)
        for name in (*AVERAGED, "Mixed_7c"):
            ours.get_submodule(name).pool = nn.AvgPool2d(3, 1, 1)
        expected = theirs(small)
        assert published.shape == expected.shape == (1, 2048)
        assert (ours(picture) - expected).norm() < 1e-5 * expected.norm()
        assert (published - expected).norm() > 1e-3 * expected.norm()

    def test_averages_leave_the_padding_out_and_the_last_block_takes_the_maximum(self):
        net = FidInception(tiny.NARROW)
        ramp = torch.arange(9.0).view(1, 1, 3, 3)
        for name in AVERAGED:
            pool = net.get_submodule(name).pool
            assert torch.equal(pool(torch.ones(1, 2, 5, 5)), torch.ones(1, 2, 5, 5))
            assert float(pool(ramp)[0, 0, 0, 0]) == (0 + 1 + 3 + 4) / 4
        assert float(net.Mixed_7c.pool(ramp)[0, 0, 0, 0]) == 4
        assert net.Mixed_7c.pool(ramp).shape == ramp.shape

    def test_widths_and_missing_counts_are_read_from_the_file(self, tmp_path):
        tiny.write_fid_inception(tmp_path / "inception.pth")
        state = load_state_dict(tmp_path / "inception.pth", expect="inception")
        old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
        picture = torch.rand(2, 3, 299, 299)
        features = inception_for(old)(picture)
        assert features.shape == (2, tiny.FEATURES)
        assert torch.equal(features, inception_for(state)(picture))
        with pytest.raises(RuntimeError, match="Mixed_7c"):
            inception_for({key: value for key, value in state.items() if not key.startswith("Mixed_7c.branch1x1")})


def spread(size, seed):
    draw = np.random.default_rng(seed).standard_normal((2 * size, size))
    return np.cov(draw, rowvar=False)


class TestDistance:
    def test_equal_covariances_leave_the_means(self):
        covariance = spread(6, 1)
        a, b = Gaussian(np.zeros(6), covariance), Gaussian(np.arange(6.0), covariance)
        assert frechet_distance(a, b) == pytest.approx(55, abs=1e-6)
        assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)

    def test_commuting_covariances_compare_by_their_deviations(self):
        turn, _ = np.linalg.qr(RNG.standard_normal((5, 5)))
        left, right = np.array([1.0, 4, 9, 0.25, 2]), np.array([4.0, 4, 1, 1, 3])
        a, b = (Gaussian(np.zeros(5), turn @ np.diag(values) @ turn.T) for values in (left, right))
        assert frechet_distance(a, b) == pytest.approx(((left**0.5 - right**0.5) ** 2).sum(), abs=1e-9)

    def test_it_is_symmetrical(self):
        a, b = (Gaussian(RNG.standard_normal(7), spread(7, seed)) for seed in (2, 3))
        assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)

    @pytest.mark.parametrize("faces", [3, 12, 40])
    def test_few_faces_and_many_follow_one_definition(self, faces):
        reference = Gaussian(RNG.standard_normal(12), spread(12, 4))
        features = np.random.default_rng(faces).standard_normal((faces, 12)).astype(np.float32)
        expected = frechet_distance(gaussian(features.astype(np.float64)), reference)
        assert fid_of(features, reference) == pytest.approx(expected, abs=1e-5)

    def test_of_a_known_sample(self):
        """Two faces: the covariance has one direction, so the root of the product is a number."""
        features = np.array([[1.0, 0.0], [3.0, 0.0]])
        reference = Gaussian(np.zeros(2), np.diag([8.0, 5.0]))
        assert fid_of(features, reference) == pytest.approx(4 + 2 + 13 - 2 * (2 * 8) ** 0.5)

    def test_a_singular_product_without_a_root_gets_a_little_on_its_diagonal(self, monkeypatch):
        import scipy.linalg

        original, asked = scipy.linalg.sqrtm, []

        def sqrtm(matrix):
            asked.append(matrix)
            return np.full_like(matrix, np.nan) if len(asked) == 1 else original(matrix)

        monkeypatch.setattr(scipy.linalg, "sqrtm", sqrtm)
        a = Gaussian(np.zeros(3), np.diag([1.0, 0, 0]))
        assert frechet_distance(a, a) == pytest.approx(-6e-6, abs=1e-8)
        assert np.allclose(np.diagonal(asked[1]), [(1 + 1e-6) ** 2, 1e-12, 1e-12], rtol=1e-9, atol=0)

    def test_what_is_no_covariance_is_refused(self):
        a, b = (Gaussian(np.zeros(2), np.array(c)) for c in ([[-1.0, 1], [1, 1]], [[1.0, 0], [0, 1]]))
        with pytest.raises(ValueError, match="no real root"):
            frechet_distance(a, b)

    def test_only_the_first_faces_count(self):
        features, reference = RNG.standard_normal((9, 4)), Gaussian(np.zeros(4), np.eye(4))
        assert fid_of(features, reference, cap=5) == fid_of(features[:5], reference)

    def test_one_face_and_another_networks_statistics_are_refused(self):
        with pytest.raises(ValueError, match="at least 2 faces, got 1"):
            fid_of(np.zeros((1, 4)), Gaussian(np.zeros(4), np.eye(4)))
        with pytest.raises(ValueError, match="got 3 features and 4"):
            fid_of(np.zeros((5, 3)), Gaussian(np.zeros(4), np.eye(4)))


class TestStatistics:
    def test_numpy_and_torch_are_read_alike(self, tmp_path):
        mean, covariance = np.arange(3, dtype=np.float32), np.eye(3)
        torch.save({"mean": mean, "cov": covariance}, tmp_path / "numpy.pth")
        torch.save({"mean": torch.from_numpy(mean), "cov": torch.from_numpy(covariance)}, tmp_path / "torch.pth")
        for name in ("numpy", "torch"):
            found = load_gaussian(tmp_path / f"{name}.pth")
            assert found.mean.dtype == found.covariance.dtype == np.float64
            assert np.array_equal(found.mean, mean)
            assert np.array_equal(found.covariance, covariance)

    @pytest.mark.parametrize("content", [{"mean": np.zeros(3)}, {"mean": np.zeros(3), "cov": np.eye(2)}])
    def test_something_else_is_named(self, tmp_path, content):
        torch.save(content, tmp_path / "other.pth")
        with pytest.raises(WeightsMismatch, match="FID statistics"):
            load_gaussian(tmp_path / "other.pth")

    def test_code_in_a_file_is_not_run(self, tmp_path):
        class Evil:
            def __reduce__(self):
                return os.system, (f"touch {tmp_path / 'executed'}",)

        torch.save({"mean": Evil(), "cov": np.eye(2)}, tmp_path / "evil.pth")
        with pytest.raises(WeightsUnsafe):
            load_gaussian(tmp_path / "evil.pth")
        assert not (tmp_path / "executed").exists()


def test_the_key_list_is_known_by_its_hash():
    """A change of any name or shape shows here, even where torchvision changes with it."""
    with torch.device("meta"):
        listing = "\n".join(f"{key} {shape}" for key, shape in sorted(shapes(FidInception()).items()))
    assert (
        hashlib.sha256(listing.encode()).hexdigest()
        == "760681d791cb624e1bf7a2e802a68933dd17aa5e3109fcf498d9dfa521bc10d7"
    )
