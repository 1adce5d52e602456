"""The training loop of the small networks, and the table of what can be trained.

Every batch is a function of (seed, step), and the checkpoint is written under a temporary name and renamed:
a training that is killed at any moment goes on where it stood and ends with what it would have ended with
on the same machine. The loop knows batches and losses; it knows no flow, ledger or command line.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from tasks.degrade import Image
from tasks.models.compact import build, load_compact, save_compact
from tasks.train_data import (
    Face,
    Pair,
    draw_cast,
    draw_haze,
    load_faces,
    quality_pair,
    restorer_pair,
    tone_pair,
)
from tasks.train_faces import face_crop, nonface_crop

Batch: TypeAlias = dict[str, Tensor]
Progress: TypeAlias = Callable[[int, int, float], None]


class TrainSettings(BaseModel):
    """What a training needs to know. Defaults are those of the shipped networks, apart from the data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: Path = Field(description="folder of aligned faces, see tasks.train_data.load_faces")
    out: Path = Field(description="folder for <name>.safetensors and the checkpoint <name>.ckpt")
    start: Path | None = Field(default=None, description="weights of a network of the same shape to start from")
    steps: int = Field(default=4000, ge=1, description="optimiser steps; may differ when a training goes on")
    batch: int | None = Field(default=None, ge=1, description="examples a step; none = the network's own")
    learning_rate: float | None = Field(default=None, gt=0, le=0.1, description="peak; none = the network's own")
    average: float = Field(default=0.998, ge=0, lt=1, description="decay of the weights' running mean")
    seed: int = Field(default=0, ge=0, description="of initial weights and of everything drawn")
    device: str = Field(default="cpu", description="torch device, such as cpu or cuda")
    half: bool = Field(default=True, description="compute in bfloat16 where that is safe")
    save_every: int = Field(default=200, ge=1, description="steps between checkpoints")


@dataclass(frozen=True)
class Network:
    """How a network is trained: its shape, what it is shown, and what it is blamed for."""

    config: dict[str, object]
    batch: int
    learning_rate: float
    draw: Callable[[Face, int], Batch]
    loss: Callable[[nn.Module, Batch], Tensor]


@dataclass(frozen=True)
class TrainResult:
    """Where the weights are, their sha256, and the mean loss of the last hundred steps of this call."""

    name: str
    weights: Path
    sha256: str
    steps: int
    loss: float
    seconds: float


def train(name: str, settings: TrainSettings, on_progress: Progress | None = None) -> TrainResult:
    """Train one network of `NETWORKS`, going on from its checkpoint in `settings.out` where there is one.

    `on_progress` is called after every step with (step, steps, loss).
    Raises KeyError for an unknown name, FileNotFoundError where the data hold no faces, ValueError where a
    checkpoint was made with other settings.
    """
    if name not in NETWORKS:
        raise KeyError(f"no network is called {name!r}; {', '.join(NETWORKS)} can be trained")
    started = time.monotonic()
    settings.out.mkdir(parents=True, exist_ok=True)
    run = _Run(name, NETWORKS[name], settings)
    run.resume()
    losses: list[float] = []
    for batch in run.batches(load_faces(settings.data, "train")):
        losses.append(run.advance(batch))
        if on_progress is not None:
            on_progress(run.step, settings.steps, losses[-1])
        if run.step % settings.save_every == 0:
            run.save()
    run.save()
    weights = run.export()
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    last = float(np.mean(losses[-100:])) if losses else float("nan")
    return TrainResult(name, weights, digest, run.step, last, time.monotonic() - started)


class _Run:
    def __init__(self, name: str, network: Network, settings: TrainSettings) -> None:
        torch.manual_seed(settings.seed)
        self.name, self.network, self.settings = name, network, settings
        self.device = torch.device(settings.device)
        self.net = build(name, **network.config).to(self.device).to(memory_format=torch.channels_last)
        if settings.start is not None:
            self.net.load_state_dict(load_compact(settings.start).state_dict())
        self.average = deepcopy(self.net).requires_grad_(False)
        self.rate = settings.learning_rate or network.learning_rate
        self.optimiser = torch.optim.AdamW(self.net.parameters(), self.rate, weight_decay=1e-4, betas=(0.9, 0.99))
        self.step = 0

    @property
    def checkpoint(self) -> Path:
        return self.settings.out / f"{self.name}.ckpt"

    def batches(self, faces: list[Face]) -> Iterator[Batch]:
        """One batch for every step that is left; the next is drawn while the current one is learnt."""
        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(self._draw, faces, self.step)
            for step in range(self.step, self.settings.steps):
                batch = following.result()
                if step + 1 < self.settings.steps:
                    following = pool.submit(self._draw, faces, step + 1)
                yield batch

    def _draw(self, faces: list[Face], step: int) -> Batch:
        rng = np.random.default_rng((self.settings.seed, step))
        size = self.settings.batch or self.network.batch
        chosen = rng.choice(len(faces), size, replace=size > len(faces))
        seeds = rng.integers(2**31, size=size)
        drawn = [self.network.draw(faces[i], int(seed)) for i, seed in zip(chosen, seeds, strict=True)]
        return {key: torch.stack([example[key] for example in drawn]) for key in drawn[0]}

    def advance(self, batch: Batch) -> float:
        self.net.train()
        moved = {key: value.to(self.device) for key, value in batch.items()}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.half):
            loss = self.network.loss(self.net, moved)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate * _warm_and_cool(self.step, self.settings.steps)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        self._follow()
        return float(loss.detach())

    @torch.no_grad()
    def _follow(self) -> None:
        decay = min(self.settings.average, (1 + self.step) / (10 + self.step))
        current = self.net.state_dict()
        for key, value in self.average.state_dict().items():
            if value.is_floating_point():
                value.lerp_(current[key], 1 - decay)
            else:
                value.copy_(current[key])

    def _identity(self) -> str:
        return self.settings.model_dump_json(exclude={"out", "save_every", "device", "steps"}) + self.name

    def save(self) -> None:
        state = {
            "settings": self._identity(),
            "step": self.step,
            "net": self.net.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.checkpoint)

    def resume(self) -> None:
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        if state["settings"] != self._identity():
            raise ValueError(
                f"{self.checkpoint} was made with other settings; remove it to begin anew, or give the old ones"
            )
        self.step = int(state["step"])
        self.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])

    def export(self) -> Path:
        final = self.settings.out / f"{self.name}.safetensors"
        partial = final.with_suffix(".partial")
        save_compact(self.average, self.name, self.network.config, partial)
        partial.replace(final)
        return final


def _warm_and_cool(step: int, steps: int) -> float:
    """Share of the peak learning rate: up over 50 steps, down to nothing over the last third."""
    return min(1.0, (step + 1) / 50, 3 * (steps - step) / steps)


def _tensor(image: Image) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def _reduced(pair: Pair, side: int) -> Batch:
    factor = pair.given.shape[0] // side
    valid = torch.from_numpy(pair.valid)[None]
    batch = {"given": _tensor(pair.given), "truth": _tensor(pair.truth), "valid": valid}
    return {key: nn.functional.avg_pool2d(value, factor) for key, value in batch.items()} if factor > 1 else batch


def _tone_loss(net: nn.Module, batch: Batch) -> Tensor:
    """Masked L1, each picture in proportion to how wrong it was, so that mild ones count as much as severe.

    A clean picture is divided by 0.05 alone: the way to score on it is to leave it alone.
    """
    made: Tensor = net.toned(batch["given"])  # type: ignore[operator]
    weights = batch["valid"] / batch["valid"].sum(dim=(1, 2, 3), keepdim=True)
    given: Tensor = ((batch["given"] - batch["truth"]).abs() * weights).sum(dim=(1, 2, 3))
    left: Tensor = ((made.float() - batch["truth"]).abs() * weights).sum(dim=(1, 2, 3))
    return (left / (given + 0.05)).mean()


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
    return nn.functional.smooth_l1_loss(net(batch["given"]).float(), batch["score"], beta=0.05)


def quality_truth(pair: Pair) -> float:
    """What `QualityNet` should say of a pair: clip((PSNR − 16) / 26, 0, 1) over the real pixels."""
    error = float(((pair.given - pair.truth) ** 2)[pair.valid > 0.5].mean())
    return float(np.clip((-10 * np.log10(error + 1e-9) - 16) / 26, 0, 1))


def _draw_quality(face: Face, seed: int) -> Batch:
    pair = quality_pair(face, seed)
    return {"given": _tensor(pair.given), "score": torch.tensor(quality_truth(pair))}


def _draw_crop(face: Face, seed: int) -> Batch:
    crop = (face_crop if seed % 5 < 3 else nonface_crop)(face, seed)
    return {
        "crop": _tensor(crop.image),
        "points": torch.from_numpy(crop.points),
        "face": torch.tensor(float(crop.face)),
    }


def _landmark_loss(net: nn.Module, batch: Batch) -> Tensor:
    points, logit = net(batch["crop"])
    error = nn.functional.smooth_l1_loss(points, batch["points"], beta=0.02, reduction="none").mean(dim=(1, 2))
    seen = nn.functional.binary_cross_entropy_with_logits(logit, batch["face"])
    return 20 * (error * batch["face"]).sum() / batch["face"].sum().clamp(min=1) + 0.3 * seen


NETWORKS: dict[str, Network] = {
    "landmarks": Network({"width": 24}, 64, 2e-3, _draw_crop, _landmark_loss),
    "restorer": Network(
        {"working": 128, "widths": [32, 64, 96, 128], "blocks": [1, 2, 2, 2], "least": 0.0035},
        6,
        7e-4,
        lambda face, seed: _reduced(restorer_pair(face, seed, 128), 128),
        _restorer_loss,
    ),
    "severe": Network(
        {"working": 128, "least": 0.0017},
        8,
        1e-3,
        lambda face, seed: _reduced(restorer_pair(face, seed, 128, 0.5), 128),
        _restorer_loss,
    ),
    "quality": Network({"width": 64}, 16, 5e-3, _draw_quality, _quality_loss),
    "dehaze": Network(
        {"working": 64}, 12, 2e-3, lambda face, seed: _reduced(tone_pair(face, seed, draw_haze), 64), _tone_loss
    ),
    "skin_tone": Network(
        {"working": 64}, 12, 2e-3, lambda face, seed: _reduced(tone_pair(face, seed, draw_cast), 64), _tone_loss
    ),
}
