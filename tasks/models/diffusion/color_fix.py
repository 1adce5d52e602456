"""Gives a restored image the colours of a reference: AdaIN and wavelet reconstruction.

Tensors (N, 3, H, W), RGB, nominally in [0, 1]. Formulas as in Huang and Belongie, "Arbitrary Style Transfer in
Real-time with Adaptive Instance Normalization" (ICCV 2017) and the colour fix of StableSR, which DiffBIR and
PiSA-SR share.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from tasks.models.restorers.photometric import quantise

LEVELS = 5
EPSILON = 1e-5


def adain(content: Tensor, style: Tensor) -> Tensor:
    """Shifts and scales every channel of `content` to the mean and deviation of `style`; not clamped.

    The variance is the unbiased one plus 1e-5, so an image is not left exactly as it is by itself.
    """
    content_mean, content_std = _statistics(content)
    style_mean, style_std = _statistics(style)
    return (content - content_mean) / content_std * style_std + style_mean


def wavelet_reconstruction(content: Tensor, style: Tensor) -> Tensor:
    """The details of `content` on the broad tones of `style`; not clamped."""
    return content - _low_frequencies(content) + _low_frequencies(style)


def adain_8bit(content: Tensor, style: Tensor) -> Tensor:
    """AdaIN as the released pipeline runs it: 8-bit images in, an 8-bit image out; values on the grid i/255."""
    return _through_8_bits(adain(_through_8_bits(content), _through_8_bits(style)))


def wavelet_8bit(content: Tensor, style: Tensor) -> Tensor:
    """Wavelet reconstruction between 8-bit images, as PiSA-SR's stand-alone code offers it."""
    return _through_8_bits(wavelet_reconstruction(_through_8_bits(content), _through_8_bits(style)))


def _through_8_bits(image: Tensor) -> Tensor:
    return quantise(image) / 255


def _statistics(image: Tensor) -> tuple[Tensor, Tensor]:
    flat = image.flatten(2)
    mean = flat.mean(dim=2)[..., None, None]
    deviation = (flat.var(dim=2) + EPSILON).sqrt()[..., None, None]
    return mean, deviation


def _low_frequencies(image: Tensor) -> Tensor:
    for level in range(LEVELS):
        image = _blur(image, 2**level)
    return image


def _blur(image: Tensor, radius: int) -> Tensor:
    channels = image.shape[1]
    row = torch.tensor([0.25, 0.5, 0.25], dtype=image.dtype, device=image.device)
    kernel = torch.outer(row, row).expand(channels, 1, 3, 3)
    padded = pad(image, (radius,) * 4, mode="replicate")
    return conv2d(padded, kernel, groups=channels, dilation=radius)
