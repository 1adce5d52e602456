"""Identity: another person never gets through, and what cannot be judged is said."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.faces.geometry import recognition_crop
from tasks.faces.judges import onnx_judge
from tasks.stage import Batch, Face
from tasks.stages.identity import Identity, IdentitySettings


def face(seed):
    rng = np.random.default_rng(seed)
    small = rng.random((8, 8, 3)).astype(np.float32)
    return np.kron(small, np.ones((64, 64, 1), np.float32))


def judge(crops):
    """A stand-in that tells faces apart by their colours, place by place."""
    vectors = (crops.reshape(len(crops), 14, 8, 14, 8, 3).mean((2, 4)) - 0.5).reshape(len(crops), -1)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def verdict(aligned, restored, earlier=None, with_judge=True, **settings):
    stage = Identity(IdentitySettings(**settings))
    stage.load("cpu", "float32")
    stage.judge = judge if with_judge else None
    images = {"aligned": aligned, "restored": restored, "pisa_sr.restored": restored if earlier is None else earlier}
    (result,) = stage.run(Batch([Face("a", 0)], {name: image[None] for name, image in images.items()}))
    return result


ME, OTHER = face(1), face(2)


def test_the_same_person_is_kept_whole():
    result = verdict(ME, np.clip(ME * 1.1, 0, 1))
    assert result.outcome.state == "done"
    assert result.outcome.metrics["identity.restored"] > 0.9
    np.testing.assert_array_equal(result.images["restored"], np.clip(ME * 1.1, 0, 1))


def test_a_swapped_face_is_rejected_and_the_original_stays():
    result = verdict(ME, OTHER, blends=())
    assert (result.outcome.state, result.outcome.reason_code) == ("rejected_identity", "identity_lost")
    np.testing.assert_array_equal(result.images["restored"], ME)


def test_a_blend_is_tried_first_and_then_an_earlier_stage():
    blended = verdict(ME, OTHER, blends=(0.3,))
    assert blended.outcome.reason_code == "fallback_blend"
    np.testing.assert_allclose(blended.images["restored"], ME + 0.3 * (OTHER - ME), atol=1e-6)
    earlier = verdict(ME, OTHER, earlier=ME * 0.9, blends=())
    assert (earlier.outcome.state, earlier.outcome.reason_code) == ("done_fallback", "fallback_earlier")


def test_whatever_is_kept_is_above_the_threshold():
    for threshold in (-1.0, 0.2, 0.6, 0.95):
        result = verdict(ME, OTHER, threshold=threshold)
        kept = judge(np.stack([recognition_crop(i) for i in (ME, result.images["restored"])]))
        assert kept[0] @ kept[1] >= min(threshold, 0.999)


def test_without_a_judge_the_verdict_is_undecidable_and_the_setting_decides():
    passed = verdict(ME, OTHER, with_judge=False)
    assert (passed.outcome.state, passed.outcome.detail["verdict"]) == ("done", "undecidable")
    assert "identity.restored" not in passed.outcome.metrics
    refused = verdict(ME, OTHER, with_judge=False, undecidable="reject")
    assert refused.outcome.reason_code == "undecidable"
    np.testing.assert_array_equal(refused.images["restored"], ME)


def test_the_judge_does_not_see_neighbours():
    stage = Identity(IdentitySettings())
    stage.load("cpu", "float32")
    stage.judge = judge
    images = {name: np.stack([ME, OTHER]) for name in ("aligned", "restored", "pisa_sr.restored")}
    both = stage.run(Batch([Face("a", 0), Face("b", 0)], images))
    alone = verdict(ME, ME)
    assert both[0].outcome == alone.outcome


def test_a_real_recognition_network_tells_people_apart(shared):
    pictures = sorted((shared / "data" / "hq").glob("gpo_*.png"))[:4]
    network = onnx_judge(shared / "data" / "weights" / "MobileFaceNet.onnx")
    crops = np.stack(
        [recognition_crop(read(p)) for p in pictures] + [recognition_crop(read(p) * 0.8) for p in pictures]
    )
    vectors = network(crops)
    similar = vectors[:4] @ vectors[4:].T
    assert similar.diagonal().min() > 0.8
    assert (similar - np.diag(similar.diagonal())).max() < 0.4


def read(path):
    cv2 = pytest.importorskip("cv2")
    return cv2.imread(str(path))[..., ::-1].astype(np.float32) / 255
