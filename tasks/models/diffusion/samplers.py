"""The samplers of DiffBIR: they turn noise into a latent by asking a network, step by step.

`spaced` (respaced DDPM), `ddim`, `dpm++_m2` (DPM-Solver++), and in the convention of Karras et al. (2022)
`edm_euler`, `edm_dpm++_2m`, `edm_dpm++_3m_sde`. All numbers of a schedule are plain floats and all noise is drawn
beforehand, so that the loop never waits for a device. Knows neither networks, prompts nor tiles.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tasks.models.diffusion.schedules import (
    Diffusion,
    EDMSteps,
    Floats,
    ddim_steps,
    dpm_steps,
    edm_steps,
    guidance_scale,
    spaced_steps,
)

Predict = Callable[[Tensor, Tensor, float], Tensor]
"""(x, timestep as a 0-d tensor, guidance scale) -> the network's output, guided; x and output (N, 4, h, w)."""

AdjustX0 = Callable[[Tensor, float, float], Tensor]
"""(predicted clean latent, timestep, rescale) -> a better one: where restoration guidance takes hold."""


@dataclass(frozen=True)
class SamplerSettings:
    """`s_*` follow Karras et al. (2022), algorithm 2 (`edm_euler`); `eta` scales the noise of the SDE solver."""

    cfg_scale: float = 4.0
    rescale_cfg: bool = False
    eta: float = 1.0
    s_churn: float = 0.0
    s_tmin: float = 0.0
    s_tmax: float = math.inf
    s_noise: float = 1.0

    def cfg_at(self, timestep: float) -> float:
        """The guidance scale at this step."""
        return guidance_scale(self.cfg_scale, timestep, self.rescale_cfg)


@dataclass(frozen=True)
class Problem:
    """What a sampler is given: the process, the network, x_T (N, 4, h, w) fp32 and the noise (draws, N, 4, h, w)."""

    diffusion: Diffusion
    predict: Predict
    start: Tensor
    noise: Tensor
    settings: SamplerSettings
    adjust_x0: AdjustX0 | None = None


@dataclass(frozen=True)
class Sampler:
    """`solve(problem, steps)` returns the latent (N, 4, h, w); `draws(steps, settings)` counts the noises it takes."""

    solve: Callable[[Problem, int], Tensor]
    draws: Callable[[int, SamplerSettings], int]


def sample_spaced(problem: Problem, steps: int) -> Tensor:
    """Ancestral sampling of the respaced DDPM (Ho et al. 2020 with the fixed small variance)."""
    plan = spaced_steps(problem.diffusion, steps)
    times, signals = plan.timesteps.tolist(), np.sqrt(plan.alphas_cumprod).tolist()
    of_clean, of_noisy = plan.posterior_mean_coef1.tolist(), plan.posterior_mean_coef2.tolist()
    deviations = np.sqrt(plan.posterior_variance).tolist()
    on_device, x = _on_device(plan.timesteps, problem.start), problem.start
    for taken, i in enumerate(reversed(range(steps))):
        output = problem.predict(x, on_device[i], problem.settings.cfg_at(times[i]))
        x0 = _clean(output, x, signals[i], problem.diffusion)
        if problem.adjust_x0 is not None:
            x0 = problem.adjust_x0(x0, times[i], 1 / of_clean[i])
        x = of_clean[i] * x0 + of_noisy[i] * x
        if i > 0:
            x = x + deviations[i] * problem.noise[taken]
    return x


def sample_ddim(problem: Problem, steps: int) -> Tensor:
    """Deterministic DDIM (Song et al. 2021, eta 0)."""
    plan = ddim_steps(problem.diffusion, steps)
    times, alphas, following = plan.timesteps.tolist(), plan.alphas.tolist(), plan.alphas_previous.tolist()
    on_device, x = _on_device(plan.timesteps, problem.start), problem.start
    for i in reversed(range(len(times))):
        output = problem.predict(x, on_device[i], problem.settings.cfg_at(times[i]))
        signal, spread = math.sqrt(alphas[i]), math.sqrt(1 - alphas[i])
        eps = output if problem.diffusion.parameterization == "eps" else signal * output + spread * x
        x0 = (x - spread * eps) / signal
        x = math.sqrt(following[i]) * x0 + math.sqrt(1 - following[i]) * eps
    return x


def sample_dpmpp_m2(problem: Problem, steps: int) -> Tensor:
    """DPM-Solver++(2M), multistep, second order; the last of fewer than ten steps is of first order."""
    plan = dpm_steps(problem.diffusion, steps)
    times, alphas, sigmas = plan.timesteps.tolist(), plan.alphas.tolist(), plan.sigmas.tolist()
    lengths = np.diff(plan.log_snr).tolist()
    on_device, x, previous = _on_device(plan.timesteps, problem.start), problem.start, None
    for i, length in enumerate(lengths):
        output = problem.predict(x, on_device[i], problem.settings.cfg_at(times[i]))
        x0 = _clean(output, x, alphas[i], problem.diffusion)
        if previous is None or (steps < 10 and i == steps - 1):
            estimate = x0
        else:
            estimate = x0 + (x0 - previous) * (length / (2 * lengths[i - 1]))
        x = sigmas[i + 1] / sigmas[i] * x - alphas[i + 1] * math.expm1(-length) * estimate
        previous = x0
    return x


def sample_edm_euler(problem: Problem, steps: int) -> Tensor:
    """Euler steps with optional churn (Karras et al. 2022, algorithm 2)."""
    settings, plan = problem.settings, edm_steps(problem.diffusion, steps)
    denoise = _EDMDenoiser(problem, plan)
    x = denoise.start()
    for i, (sigma, following) in enumerate(_pairs(plan.sigmas)):
        churned = sigma * (1 + _churn(sigma, steps, settings))
        if churned > sigma:
            x = x + settings.s_noise * math.sqrt(churned**2 - sigma**2) * problem.noise[i]
        slope = (x - denoise(x, churned)) / churned
        x = x + (following - churned) * slope
    return x


def sample_edm_dpmpp_2m(problem: Problem, steps: int) -> Tensor:
    """DPM-Solver++(2M) over EDM noise levels."""
    plan = edm_steps(problem.diffusion, steps)
    denoise = _EDMDenoiser(problem, plan)
    x, previous, last_step = denoise.start(), None, 0.0
    for sigma, following in _pairs(plan.sigmas):
        x0 = denoise(x, sigma)
        if following == 0:
            return x0
        step = math.log(sigma / following)
        estimate = x0 if previous is None else x0 + (x0 - previous) * (step / (2 * last_step))
        x = following / sigma * x - math.expm1(-step) * estimate
        previous, last_step = x0, step
    return x


def sample_edm_dpmpp_3m_sde(problem: Problem, steps: int) -> Tensor:
    """DPM-Solver++(3M) SDE over EDM noise levels.

    The original takes its noise from a Brownian tree; over disjoint steps its increments are independent normals,
    which is what is used here.
    """
    plan, settings = edm_steps(problem.diffusion, steps), problem.settings
    denoise = _EDMDenoiser(problem, plan)
    x, history = denoise.start(), _ThirdOrder(settings.eta)
    for i, (sigma, following) in enumerate(_pairs(plan.sigmas)):
        x0 = denoise(x, sigma)
        if following == 0:
            return x0
        step = math.log(sigma / following)
        x = history.advance(x, x0, step)
        if settings.eta > 0:
            spread = following * math.sqrt(-math.expm1(-2 * step * settings.eta)) * settings.s_noise
            x = x + spread * problem.noise[i]
    return x


class _ThirdOrder:
    """The multistep update of DPM-Solver++(3M): remembers two clean predictions and two step lengths."""

    def __init__(self, eta: float) -> None:
        self.eta = eta
        self.past: list[tuple[Tensor, float]] = []

    def advance(self, x: Tensor, x0: Tensor, step: float) -> Tensor:
        """One step of length `step` in log sigma; of lower order while there is no past."""
        decay = step * (1 + self.eta)
        x = math.exp(-decay) * x - math.expm1(-decay) * x0
        phi2 = math.expm1(-decay) / decay + 1
        if len(self.past) == 1:
            (before, length) = self.past[0]
            x = x + (phi2 * step / length) * (x0 - before)
        elif len(self.past) == 2:
            first, second = self._derivatives(x0, step)
            x = x + phi2 * first - (phi2 / decay - 0.5) * second
        self.past = [(x0, step), *self.past[:1]]
        return x

    def _derivatives(self, x0: Tensor, step: float) -> tuple[Tensor, Tensor]:
        (before, length), (earlier, earlier_length) = self.past
        r0, r1 = length / step, earlier_length / step
        near, far = (x0 - before) / r0, (before - earlier) / r1
        curvature = (near - far) / (r0 + r1)
        return near + curvature * r0, curvature


class _EDMDenoiser:
    """Presents the network as D(x; sigma), the clean image expected under noise of level sigma."""

    def __init__(self, problem: Problem, plan: EDMSteps) -> None:
        self.problem = problem
        self.plan = plan
        on_device = _on_device(plan.timesteps, problem.start)
        self.timesteps = {time: on_device[i] for i, time in enumerate(plan.timesteps.tolist())}

    def start(self) -> Tensor:
        """x_T brought to the first noise level."""
        return self.problem.start * math.sqrt(1 + float(self.plan.sigmas[0]) ** 2)

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        timestep = self.plan.nearest_timestep(sigma)
        spread = math.sqrt(sigma**2 + 1)
        scale = self.problem.settings.cfg_at(timestep)
        output = self.problem.predict(x / spread, self.timesteps[timestep], scale)
        if self.problem.diffusion.parameterization == "eps":
            return x - sigma * output
        return x / spread**2 - sigma / spread * output


SAMPLERS = {
    "spaced": Sampler(sample_spaced, lambda steps, _: steps - 1),
    "ddim": Sampler(sample_ddim, lambda _, __: 0),
    "dpm++_m2": Sampler(sample_dpmpp_m2, lambda _, __: 0),
    "edm_euler": Sampler(sample_edm_euler, lambda steps, settings: steps if settings.s_churn > 0 else 0),
    "edm_dpm++_2m": Sampler(sample_edm_dpmpp_2m, lambda _, __: 0),
    "edm_dpm++_3m_sde": Sampler(sample_edm_dpmpp_3m_sde, lambda steps, settings: steps - 1 if settings.eta > 0 else 0),
}
"""Every sampler by the name that DiffBIR gives it."""


def _clean(output: Tensor, x: Tensor, signal: float, diffusion: Diffusion) -> Tensor:
    """The clean latent that the network's output stands for, where `signal` is the square root of alpha."""
    noise_level = math.sqrt(1 - signal**2)
    if diffusion.parameterization == "v":
        return signal * x - noise_level * output
    return (x - noise_level * output) / signal


def _on_device(times: NDArray[Any], like: Tensor) -> Tensor:
    """All times of a run in one copy, so that the loop needs none."""
    kind = torch.float32 if times.dtype.kind == "f" else torch.int64
    return torch.tensor(times, dtype=kind, device=like.device)


def _pairs(sigmas: Floats) -> list[tuple[float, float]]:
    values = sigmas.tolist()
    return list(itertools.pairwise(values))


def _churn(sigma: float, steps: int, settings: SamplerSettings) -> float:
    inside = settings.s_tmin <= sigma <= settings.s_tmax
    return min(settings.s_churn / steps, math.sqrt(2) - 1) if inside else 0.0
