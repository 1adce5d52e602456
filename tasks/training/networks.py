"""The table of what can be trained: the networks' shapes, what each is shown, and what it is blamed for.

Knows networks, faces and pairs; knows no training loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tasks.archive import Degradation, Image
from tasks.models.compact.quality import GRID, LEAST_ERROR, LOWEST_DB, RANGE_DB, score_of, statistics
from tasks.training.data import Face, Pair, draw_cast, draw_haze, quality_pair, restorer_pair, tone_pair
from tasks.training.faces import face_crop, nonface_crop
from tasks.training.identity import identity_loss, identity_views

Batch: TypeAlias = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Network:
    """How a network is trained: its shape, what it is shown, and what it is blamed for.

    `pool` says how many different examples there are, where drawing one costs more than learning from it; they are
    kept in memory. None = always new ones.
    """

    config: dict[str, object]
    batch: int
    learning_rate: float
    draw: Callable[[Face, int], Batch]
    loss: Callable[[nn.Module, Batch], Tensor]
    pool: int | None = None


def _tensor(image: Image) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def _reduced(pair: Pair, side: int) -> Batch:
    factor = pair.given.shape[0] // side
    valid = torch.from_numpy(pair.valid)[None]
    batch = {"given": _tensor(pair.given), "truth": _tensor(pair.truth), "valid": valid}
    return {key: nn.functional.avg_pool2d(value, factor) for key, value in batch.items()} if factor > 1 else batch


def _draw_tone(face: Face, seed: int, draw: Callable[[np.random.Generator], Degradation]) -> Batch:
    """Given at 128 px, truth at 64 px: see `ToneGrid.toned`."""
    pair = tone_pair(face, seed, draw)
    return _reduced(pair, 64) | {"given": _tensor(pair.given)}


def _tone_loss(net: nn.Module, batch: Batch) -> Tensor:
    """Masked squared error, the face counted twice, each picture in proportion to how wrong it was (plus 5e-4).

    A clean picture is divided by 5e-4 alone (33 dB): the way to score on it is to leave it alone. The second term
    blames the mean colour of the cheeks for itself, so that no skin is pulled towards the others' tone; skin made
    lighter than it is counts more than skin made darker.
    """
    made: Tensor = net.toned(batch["given"]).float()  # type: ignore[operator]
    given, truth, weights = nn.functional.avg_pool2d(batch["given"], 2), batch["truth"], batch["valid"].clone()
    quarter = made.shape[2] // 4
    weights[:, :, quarter:-quarter, quarter:-quarter] *= 2
    weights /= weights.sum(dim=(1, 2, 3), keepdim=True) * 3
    wrong: Tensor = ((given - truth) ** 2 * weights).sum(dim=(1, 2, 3)) + 5e-4
    left: Tensor = ((made - truth) ** 2 * weights).sum(dim=(1, 2, 3))
    return ((left + SKIN * _skin_error(made - truth)) / wrong + 1e-3).sqrt().mean()


def _skin_error(error: Tensor) -> Tensor:
    """Squared error of both cheeks' mean colour; colour apart from lightness counts twice, lightening too."""
    top, bottom, *columns = (round(error.shape[2] * share) for share in (0.53, 0.68, 0.32, 0.44, 0.57, 0.68))
    left, right = error[:, :, top:bottom, columns[0] : columns[1]], error[:, :, top:bottom, columns[2] : columns[3]]
    cheeks = torch.cat([left, right], dim=3).mean(dim=(2, 3))
    lightness = cheeks.mean(dim=1)
    colour = (cheeks - lightness[:, None]).square().mean(dim=1)
    return lightness.square() * (1 + (lightness > 0)) + 2 * colour


def _restorer_loss(net: nn.Module, batch: Batch) -> Tensor:
    """Masked squared error, each picture in proportion to how wrong it was (plus 2e-4, which is 37 dB).

    Squared, because PSNR is what the restorers are chosen by.
    """
    made: Tensor = batch["given"] + net.correction(batch["given"])  # type: ignore[operator]
    weights = batch["valid"] / batch["valid"].sum(dim=(1, 2, 3), keepdim=True) / 3
    given: Tensor = ((batch["given"] - batch["truth"]) ** 2 * weights).sum(dim=(1, 2, 3))
    left: Tensor = ((made.float() - batch["truth"]) ** 2 * weights).sum(dim=(1, 2, 3))
    return (left / (given + 2e-4)).mean()


def _quality_loss(net: nn.Module, batch: Batch) -> Tensor:
    """How wrong both parts' scores are over the real pixels and, for a fifth, the error guessed for each place."""
    with torch.autocast(batch["seen"].device.type, enabled=False):
        seen = batch["seen"].float()
        errors, whole = net.places(seen), net.whole(seen)  # type: ignore[operator]
    score, wanted = score_of(errors, batch["shares"]), batch["score"]
    beyond = ((wanted >= 1) & (score > 1)) | ((wanted <= 0) & (score < 0))
    wrong = functional.smooth_l1_loss(score, torch.where(beyond, score.detach(), wanted), beta=0.02)
    places = functional.smooth_l1_loss(errors, batch["errors"], beta=0.1, reduction="none")
    local = (places * batch["shares"]).sum() / batch["shares"].sum()
    return wrong + 0.2 * local + functional.smooth_l1_loss(whole, wanted, beta=0.02)


def quality_truth(pair: Pair) -> float:
    """What `QualityNet` should say of a pair: clip((PSNR − 16) / 26, 0, 1) over the real pixels."""
    error = float(((pair.given - pair.truth) ** 2)[pair.valid > 0.5].mean())
    return float(np.clip((-10 * np.log10(error + 1e-9) - LOWEST_DB) / RANGE_DB, 0, 1))


def _draw_quality(face: Face, seed: int) -> Batch:
    pair = quality_pair(face, seed)
    real = torch.from_numpy((pair.valid > 0.5).astype(np.float32))
    squares = torch.from_numpy(((pair.given - pair.truth) ** 2).mean(axis=2)) * real
    shares = functional.adaptive_avg_pool2d(real[None], GRID)[0]
    error = functional.adaptive_avg_pool2d(squares[None], GRID)[0] / shares.clamp(min=1e-3)
    return {
        "seen": statistics(_tensor(pair.given)[None])[0].half(),
        "score": torch.tensor(quality_truth(pair)),
        "errors": (error + LEAST_ERROR).log10(),
        "shares": shares,
    }


def _draw_crop(face: Face, seed: int) -> Batch:
    crop = (face_crop if seed % 5 < 3 else nonface_crop)(face, seed)
    return {
        "crop": _tensor(crop.image),
        "points": torch.from_numpy(crop.points),
        "face": torch.tensor(float(crop.face)),
    }


def _landmark_loss(net: nn.Module, batch: Batch) -> Tensor:
    points, logit = net(batch["crop"])
    error = nn.functional.smooth_l1_loss(points, batch["points"], beta=0.008, reduction="none").mean(dim=(1, 2))
    seen = nn.functional.binary_cross_entropy_with_logits(logit, batch["face"])
    return 20 * (error * batch["face"]).sum() / batch["face"].sum().clamp(min=1) + 0.3 * seen


SKIN = 2.0
"""How much the cheeks' mean colour weighs beside the whole picture in what the tone networks are blamed for."""

RESTORER: dict[str, object] = {"working": 128, "widths": [32, 64, 96, 128], "blocks": [1, 2, 3, 4], "fine": 32}
NETWORKS: dict[str, Network] = {
    "landmarks": Network({"width": 24}, 64, 2e-3, _draw_crop, _landmark_loss),
    "restorer": Network(
        {**RESTORER, "least": 0.0035, "mirrored": True},
        8,
        7e-4,
        lambda face, seed: _reduced(restorer_pair(face, seed, 256), 256),
        _restorer_loss,
    ),
    "severe": Network(
        {**RESTORER, "fine": 0, "least": 0.0035, "mirrored": True},
        16,
        7e-4,
        lambda face, seed: _reduced(restorer_pair(face, seed, 128, 0.5), 128),
        _restorer_loss,
    ),
    "quality": Network({"width": 96, "places": 32, "reach": 0.05}, 48, 3e-3, _draw_quality, _quality_loss, pool=6000),
    "dehaze": Network(
        {"working": 64}, 24, 2e-3, lambda face, seed: _draw_tone(face, seed, draw_haze), _tone_loss, 8000
    ),
    "skin_tone": Network(
        {"working": 64}, 24, 2e-3, lambda face, seed: _draw_tone(face, seed, draw_cast), _tone_loss, 8000
    ),
    "identity": Network({"widths": [32, 64], "size": 32}, 40, 2e-3, identity_views, identity_loss, pool=2600),
}
