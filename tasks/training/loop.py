"""The training loop of the small networks.

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
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import nn

from tasks.models.compact.table import build, load_compact, save_compact
from tasks.training.data import Face, ita, load_faces, to_float
from tasks.training.networks import NETWORKS, Batch, Network
from tasks.training.points import with_mean_points

CHOSEN = 24
"""Held-out examples that the early stop looks at."""
Progress: TypeAlias = Callable[[int, int, float], None]


class TrainSettings(BaseModel):
    """What a training needs to know. The model card says what the shipped networks were trained with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: tuple[Path, ...] = Field(
        min_length=1, description="folders of aligned faces, see tasks.training.data.load_faces"
    )
    out: Path = Field(description="folder for <name>.safetensors and the checkpoint <name>.ckpt")
    yunet: Path | None = Field(
        default=None, description="YuNet's ONNX file: its mean over five scales in place of the table's points"
    )
    start: Path | None = Field(default=None, description="weights to start from, of the same network or a smaller one")
    steps: int = Field(default=4000, ge=1, description="optimiser steps; may differ when a training goes on")
    batch: int | None = Field(default=None, ge=1, description="examples a step; none = the network's own")
    learning_rate: float | None = Field(default=None, gt=0, le=0.1, description="peak; none = the network's own")
    average: float = Field(default=0.998, ge=0, lt=1, description="decay of the weights' running mean")
    seed: int = Field(default=0, ge=0, description="of initial weights and of everything drawn")
    device: str = Field(default="cpu", description="torch device, such as cpu or cuda")
    half: bool = Field(default=True, description="compute in bfloat16 where that is safe")
    save_every: int = Field(default=200, ge=1, description="steps between checkpoints")
    patience: int | None = Field(
        default=None, ge=1, description="stop after so many checkpoints without a better loss on held-out faces"
    )

    @field_validator("data", mode="before")
    @classmethod
    def _one_or_several(cls, data: object) -> object:
        return (data,) if isinstance(data, str | Path) else data

    @field_validator("device")
    @classmethod
    def _is_here(cls, device: str) -> str:
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError("there is no CUDA device here; leave it at cpu")
        return device


@dataclass(frozen=True, slots=True)
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
    for batch in run.batches(faces_of(settings, "fit")):
        losses.append(run.advance(batch))
        if on_progress is not None:
            on_progress(run.step, settings.steps, losses[-1])
        if run.step % settings.save_every == 0:
            run.judge()
            run.save()
            if run.has_stalled:
                break
    run.save()
    weights = run.export()
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    last = float(np.mean(losses[-100:])) if losses else float("nan")
    return TrainResult(name, weights, digest, run.step, last, time.monotonic() - started)


def faces_of(settings: TrainSettings, split: str) -> list[Face]:
    """The faces of a split as the settings want them to be seen. Raises FileNotFoundError."""
    faces = [face for folder in settings.data for face in load_faces(folder, split)]
    return faces if settings.yunet is None else with_mean_points(faces, settings.yunet)


class _Run:
    def __init__(self, name: str, network: Network, settings: TrainSettings) -> None:
        torch.manual_seed(settings.seed)
        self.name, self.network, self.settings = name, network, settings
        self.device = torch.device(settings.device)
        self.net = build(name, **network.config).to(self.device).to(memory_format=torch.channels_last)
        if settings.start is not None:
            take_over(self.net, load_compact(settings.start))
        self.average = deepcopy(self.net).requires_grad_(False)
        self.rate = settings.learning_rate or network.learning_rate
        self.optimiser = torch.optim.AdamW(self.net.parameters(), self.rate, weight_decay=1e-4, betas=(0.9, 0.99))
        self.step = 0
        self.judged: list[float] = []
        self.best: dict[str, torch.Tensor] | None = None  # judged best on held-out faces, where patience is asked for
        self.pool: dict[int, Batch] = {}

    @property
    def checkpoint(self) -> Path:
        return self.settings.out / f"{self.name}.ckpt"

    def batches(self, faces: list[Face]) -> Iterator[Batch]:
        """One batch for every step that is left; the next is drawn while the current one is learnt."""
        if self.has_stalled:
            return
        self.shares = evenly(faces)
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
        if self.network.pool is None:
            chosen, seeds = rng.choice(len(faces), size, p=self.shares), rng.integers(2**31, size=size)
            drawn = [self.network.draw(faces[i], int(seed)) for i, seed in zip(chosen, seeds, strict=True)]
        else:
            drawn = [self._pooled(faces, int(number)) for number in rng.integers(self.network.pool, size=size)]
        return {key: torch.stack([example[key] for example in drawn]) for key in drawn[0]}

    def _pooled(self, faces: list[Face], number: int) -> Batch:
        if number not in self.pool:
            rng = np.random.default_rng((self.settings.seed, number, 1))
            face = faces[int(rng.choice(len(faces), p=self.shares))]
            self.pool[number] = self.network.draw(face, int(rng.integers(2**31)))
        return self.pool[number]

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

    def judge(self) -> None:
        """Where patience is asked for: measures the average on held-out faces, and remembers the best."""
        if self.settings.patience is None:
            return
        self.judged.append(self._loss_on_held_out())
        if self.judged[-1] == min(self.judged):
            self.best = {key: value.clone() for key, value in self.average.state_dict().items()}

    @property
    def has_stalled(self) -> bool:
        """Whether the last `patience` checkpoints were no better than the best before them, on held-out faces."""
        patience = self.settings.patience
        if patience is None or len(self.judged) <= patience:
            return False
        return min(self.judged[-patience:]) >= min(self.judged[:-patience])

    @torch.no_grad()
    def _loss_on_held_out(self) -> float:
        faces = faces_of(self.settings, "choose")
        drawn = [self.network.draw(faces[i * len(faces) // CHOSEN], i) for i in range(CHOSEN)]
        batch = {key: torch.stack([example[key] for example in drawn]).to(self.device) for key in drawn[0]}
        return float(self.network.loss(self.average.eval(), batch))

    def _identity(self) -> str:
        without = {"out", "save_every", "device", "steps", "patience"} | (
            {"yunet"} if self.settings.yunet is None else set()
        )
        return self.settings.model_dump_json(exclude=without) + self.name

    def save(self) -> None:
        state = {
            "settings": self._identity(),
            "step": self.step,
            "judged": self.judged,
            "best": self.best,
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
        self.judged, self.best = list(state.get("judged", [])), state.get("best")
        self.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])

    def export(self) -> Path:
        final = self.settings.out / f"{self.name}.safetensors"
        partial = final.with_suffix(".partial")
        if self.best is not None:
            self.average.load_state_dict(self.best)
        save_compact(self.average, self.name, self.network.config, partial)
        partial.replace(final)
        return final


def take_over(net: nn.Module, trained: nn.Module) -> None:
    """Give `net` the weights of a network of its kind; what it has beyond that begins by doing nothing.

    A fine branch that `net` does without stays behind.
    Raises ValueError where `trained` has other weights that `net` has no place for.
    """
    known = trained.state_dict()
    missing, unexpected = net.load_state_dict(known, strict=False)
    strange = [name for name in unexpected if not name.startswith("fine.")]
    if strange:
        raise ValueError(f"cannot start from these weights: no place for {strange[0]}; name a network of this kind")
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name in missing and ".second." in name and not name.startswith("fine."):
                parameter.zero_()


def evenly(faces: list[Face]) -> NDArray[np.float64]:
    """How often to show each face: every source and tone of skin alike, at most four times the average."""
    tones = np.digitize([ita(to_float(face.aligned)) for face in faces], np.arange(-40, 80, 10))
    _, sources = np.unique([face.source for face in faces], return_inverse=True)
    wanted = 1 / np.bincount(tones)[tones] / np.bincount(sources)[sources]
    capped = np.minimum(wanted, 4 * wanted.mean())
    return np.asarray(capped / capped.sum(), np.float64)


def _warm_and_cool(step: int, steps: int) -> float:
    """Share of the peak learning rate: up over 50 steps, down to nothing over the last third."""
    return min(1.0, (step + 1) / 50, 3 * (steps - step) / steps)
