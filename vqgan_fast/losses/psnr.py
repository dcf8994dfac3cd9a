"""The peak signal-to-noise ratio of single pictures."""

from __future__ import annotations

from torch import Tensor

MAX_PSNR = 100.0  # dB, of a picture without an error: a mean over pictures stays finite


def psnr_of_each(errors: Tensor) -> Tensor:
    """-10 log10(error) in dB, at most MAX_PSNR, of mean squared errors (B,) at peak 1."""
    return (-10 * errors.log10()).clamp_max(MAX_PSNR)
