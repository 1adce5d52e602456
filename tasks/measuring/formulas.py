"""Metrics that are formulas: sharpness, detail and structure of one picture; PSNR and SSIM of two (scikit-image's).

Pictures are RGB float32 in [0, 1], two of them of the same size. The module knows nothing of networks or files.
"""

from __future__ import annotations

import numpy as np

from tasks.stage import Pixels

LUMA = np.array([0.299, 0.587, 0.114], np.float32)

ALIKE = 100.0
"""dB: what stands for the infinite PSNR of pictures that do not differ, so that means stay numbers."""
WINDOW = 11
LEAST_POWER = 1e-3
"""Squared levels below which a band holds nothing that 8 bits could tell."""
NOISE_IN_BANDS = (1.0, 0.25, 0.0617, 0.0149, 0.004)
"""Power of white noise in each band over that in the finest, by `_bands` of white noise."""
FLATTEST = 0.1
"""The share of a face's places that hardly show anything but noise."""


def sharpness(picture: Pixels) -> float:
    """Standard deviation of the luma's Laplacian, in 8-bit levels: 0 for a flat picture, 2 and more for a crisp one."""
    import cv2

    return float(cv2.Laplacian(picture @ LUMA, cv2.CV_32F).std() * 255)


def detail(face: Pixels) -> float:
    """How much of the fine detail (2–4 px) that features of 8–16 px promise is there; noise and JPEG do not count.

    A ratio of amplitudes in the middle of an aligned face (512, 512, 3). Measured on 8-bit files of 26 held-out people:
    clean 0.38–0.70, blurred by 1 px 0.30–0.46, by 2 px 0.20–0.27, by 4 px 0.12–0.18, whatever the noise.
    """
    powers = _bands(face)
    return float(np.sqrt(powers[1] / powers[3]))


def structure(face: Pixels) -> float:
    """The same one octave coarser and two apart: 4–8 px over 16–32 px. What tells hardly legible faces from soft ones.

    Clean 0.41–0.81, blurred by 4 px 0.20–0.34, by 8 px 0.12–0.20.
    """
    powers = _bands(face)
    return float(np.sqrt(powers[2] / powers[4]))


def _bands(face: Pixels) -> list[float]:
    """Power of the luma in octaves from 1–2 px on, in squared 8-bit levels, without that of the noise.

    The noise is what the flattest places show in the finest band.
    """
    import cv2

    height, width = face.shape[:2]
    middle = face[height // 8 : height - height // 8, width * 3 // 16 : width - width * 3 // 16]
    plane = np.ascontiguousarray(middle.mean(axis=2) * 255, np.float32)
    powers, noise = list[float](), 0.0
    for share in NOISE_IN_BANDS:
        coarse = cv2.resize(plane, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        band = (plane - cv2.resize(coarse, plane.shape[::-1], interpolation=cv2.INTER_LINEAR)) ** 2
        if not powers:
            places = cv2.resize(band, (20, 24), interpolation=cv2.INTER_AREA)
            noise = float(np.quantile(places, FLATTEST))
        powers.append(max(float(band.mean()) - share * noise, LEAST_POWER))
        plane = coarse
    return powers


def psnr(truth: Pixels, restored: Pixels) -> float:
    """Peak signal-to-noise ratio in dB over all channels, at most `ALIKE`. Raises ValueError where sizes differ."""
    from skimage.metrics import mean_squared_error, peak_signal_noise_ratio

    _insist_on_one_size(truth, restored)
    if mean_squared_error(truth, restored) == 0:
        return ALIKE
    return min(ALIKE, float(peak_signal_noise_ratio(truth, restored, data_range=1.0)))


def ssim(truth: Pixels, restored: Pixels) -> float:
    """Structural similarity, mean over channels; 1 = alike.

    Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity" (IEEE TIP 2004): a
    Gaussian window of deviation 1.5. Raises ValueError where sizes differ or a side is smaller than the window.
    """
    from skimage.metrics import structural_similarity

    _insist_on_one_size(truth, restored)
    if min(truth.shape[:2]) < WINDOW:
        raise ValueError(f"SSIM needs both sides at least {WINDOW} px, got {truth.shape[1]}×{truth.shape[0]}")
    return float(
        structural_similarity(
            truth,
            restored,
            channel_axis=2,
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


def _insist_on_one_size(truth: Pixels, restored: Pixels) -> None:
    if truth.shape != restored.shape:
        sizes = " and ".join(f"{picture.shape[1]}×{picture.shape[0]}" for picture in (restored, truth))
        raise ValueError(f"expected the restored face and its truth in one size, got {sizes}: align both alike")
