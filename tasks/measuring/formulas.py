"""Metrics that are formulas: sharpness of one picture; PSNR and SSIM of two, as scikit-image defines them.

Pictures are RGB float32 in [0, 1], two of them of the same size. The module knows nothing of networks or files.
"""

from __future__ import annotations

import numpy as np

from tasks.stage import Pixels

LUMA = np.array([0.299, 0.587, 0.114], np.float32)

ALIKE = 100.0
"""dB: what stands for the infinite PSNR of pictures that do not differ, so that means stay numbers."""
WINDOW = 11


def sharpness(picture: Pixels) -> float:
    """Standard deviation of the luma's Laplacian, in 8-bit levels: 0 for a flat picture, 2 and more for a crisp one."""
    import cv2

    return float(cv2.Laplacian(picture @ LUMA, cv2.CV_32F).std() * 255)


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
