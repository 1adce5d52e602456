"""Noise schedules of DiffBIR and the time steps that each sampler takes through them.

Plain float64 numbers, computed once on the CPU: no tensor, no device, no network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Version = Literal["v1", "v2", "v2.1"]
Parameterization = Literal["eps", "v"]

TRAINING_STEPS = 1000
LINEAR_START, LINEAR_END = 0.00085, 0.012
EDM_FIRST_ALPHA = 1e-8
"""What DiffBIR's EDM samplers put in place of the first cumulative alpha, so that the first sigma is 1e4."""
DPM_MIN_LOG_SNR = -5.1


@dataclass(frozen=True)
class Diffusion:
    """A trained diffusion process: betas (1000,) and what its network predicts (noise `eps` or velocity `v`)."""

    betas: Floats
    parameterization: Parameterization

    @property
    def alphas_cumprod(self) -> Floats:
        """The share of signal left at every step, (1000,)."""
        left: Floats = np.cumprod(1.0 - self.betas, dtype=np.float64)
        return left


def diffusion_of(version: Version) -> Diffusion:
    """v1 and v2 predict noise; v2.1 predicts velocity on a schedule that ends without any signal."""
    betas = np.linspace(LINEAR_START**0.5, LINEAR_END**0.5, TRAINING_STEPS, dtype=np.float64) ** 2
    if version == "v2.1":
        return Diffusion(_zero_terminal_snr(betas), "v")
    return Diffusion(betas, "eps")


def _zero_terminal_snr(betas: Floats) -> Floats:
    """Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed" (WACV 2024), algorithm 1."""
    root = np.sqrt(np.cumprod(1.0 - betas))
    first, last = root[0], root[-1]
    alphas_cumprod = ((root - last) * (first / (first - last))) ** 2
    shifted: Floats = 1.0 - alphas_cumprod / np.append(1.0, alphas_cumprod[:-1])
    return shifted


def guidance_scale(scale: float, timestep: float, rescale: bool) -> float:
    """The strength of classifier-free guidance at a step; `rescale` lets it grow from 1 as the noise vanishes."""
    if not rescale or scale <= 1:
        return scale
    progress = ((TRAINING_STEPS - timestep) / TRAINING_STEPS) ** 5
    return 1 + scale * (1 - math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class SpacedSteps:
    """A DDPM on a subset of the training steps, in ascending time: every array has one entry per step."""

    timesteps: NDArray[np.int64]
    alphas_cumprod: Floats
    posterior_variance: Floats
    posterior_mean_coef1: Floats
    posterior_mean_coef2: Floats


def spaced_steps(diffusion: Diffusion, steps: int) -> SpacedSteps:
    """Respaces the process evenly over `steps` (2 to 1000), as in Nichol and Dhariwal (ICML 2021)."""
    _check_steps(steps, 2, TRAINING_STEPS)
    timesteps = _evenly_spaced(steps)
    kept = diffusion.alphas_cumprod[timesteps]
    betas = 1.0 - kept / np.append(1.0, kept[:-1])
    alphas_cumprod = np.cumprod(1.0 - betas)
    previous = np.append(1.0, alphas_cumprod[:-1])
    return SpacedSteps(
        timesteps=timesteps,
        alphas_cumprod=alphas_cumprod,
        posterior_variance=betas * (1.0 - previous) / (1.0 - alphas_cumprod),
        posterior_mean_coef1=betas * np.sqrt(previous) / (1.0 - alphas_cumprod),
        posterior_mean_coef2=(1.0 - previous) * np.sqrt(1.0 - betas) / (1.0 - alphas_cumprod),
    )


def _evenly_spaced(steps: int) -> NDArray[np.int64]:
    # Summed rather than multiplied: where a position falls on a half, the original rounds its running sum.
    stride, position, taken = (TRAINING_STEPS - 1) / (steps - 1), 0.0, []
    for _ in range(steps):
        taken.append(round(position))
        position += stride
    return np.array(taken, dtype=np.int64)


@dataclass(frozen=True)
class DDIMSteps:
    """Time steps of DDIM, ascending, with the signal left at each and at the one that follows in sampling."""

    timesteps: NDArray[np.int64]
    alphas: Floats
    alphas_previous: Floats


def ddim_steps(diffusion: Diffusion, steps: int) -> DDIMSteps:
    """Takes every (1000 // steps)-th step, offset by one; where 1000 is no multiple there are more than `steps`."""
    _check_steps(steps, 1, TRAINING_STEPS // 2)
    timesteps = np.arange(0, TRAINING_STEPS, TRAINING_STEPS // steps, dtype=np.int64) + 1
    if timesteps[-1] >= TRAINING_STEPS:
        raise ValueError(f"ddim cannot take {steps} steps: the last would lie beyond the schedule; take one fewer")
    alphas_cumprod = diffusion.alphas_cumprod
    alphas = alphas_cumprod[timesteps]
    return DDIMSteps(timesteps, alphas, np.append(alphas_cumprod[0], alphas[:-1]))


@dataclass(frozen=True)
class EDMSteps:
    """Descending time steps and noise levels in the convention of Karras et al. (2022); the last level is 0."""

    timesteps: NDArray[np.int64]
    sigmas: Floats

    def nearest_timestep(self, sigma: float) -> int:
        """The time step whose noise level is the closest to `sigma`."""
        return int(self.timesteps[np.abs(self.sigmas - sigma).argmin()])


def edm_steps(diffusion: Diffusion, steps: int) -> EDMSteps:
    """`steps` (1 to 999) levels from the end of the schedule, the first pushed to 1e4, and a closing 0."""
    _check_steps(steps, 1, TRAINING_STEPS - 1)
    timesteps = np.linspace(TRAINING_STEPS - 1, 0, steps, endpoint=False).astype(np.int64)
    alphas_cumprod = diffusion.alphas_cumprod[timesteps]
    alphas_cumprod[0] = EDM_FIRST_ALPHA
    sigmas = np.sqrt((1.0 - alphas_cumprod) / alphas_cumprod)
    return EDMSteps(np.append(timesteps, 0), np.append(sigmas, 0.0))


@dataclass(frozen=True)
class DPMSteps:
    """Continuous times of DPM-Solver++, descending, `steps` + 1 of them.

    `timesteps` are what the network is told (fractions between the training steps); `alphas`, `sigmas` scale
    signal and noise; `log_snr` is the log of their ratio.
    """

    timesteps: Floats
    alphas: Floats
    sigmas: Floats
    log_snr: Floats


def dpm_steps(diffusion: Diffusion, steps: int) -> DPMSteps:
    """Uniform in time, log alpha interpolated linearly; the end without signal is cut off at log SNR -5.1.

    Lu et al., "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models" (2022).
    """
    _check_steps(steps, 2, TRAINING_STEPS - 1)
    with np.errstate(divide="ignore"):
        log_alphas = 0.5 * np.log1p(-diffusion.betas).cumsum()
    usable = _log_snr(log_alphas) >= DPM_MIN_LOG_SNR
    log_alphas = log_alphas[usable]
    count = len(log_alphas)
    times = np.linspace(1.0, 1.0 / count, steps + 1)
    log_alpha = np.interp(times, np.arange(1, count + 1) / count, log_alphas)
    return DPMSteps(
        timesteps=(times - 1.0 / count) * TRAINING_STEPS,
        alphas=np.exp(log_alpha),
        sigmas=np.sqrt(-np.expm1(2 * log_alpha)),
        log_snr=_log_snr(log_alpha),
    )


def _log_snr(log_alphas: Floats) -> Floats:
    with np.errstate(invalid="ignore"):
        return log_alphas - 0.5 * np.log(-np.expm1(2 * log_alphas))


def _check_steps(steps: int, least: int, most: int) -> None:
    if not least <= steps <= most:
        raise ValueError(f"expected {least} to {most} steps for this sampler, got {steps}")
