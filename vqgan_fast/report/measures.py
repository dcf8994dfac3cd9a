"""Figures of merit, each with its formula."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..losses import psnr_of_each


def mean_squared_error(x: Tensor, x_hat: Tensor) -> float:
    """Mean of (x - x_hat)^2 over all pixels and channels, with both clamped and scaled to [0, 1].

    Args:
        x, x_hat: images of the same shape in [-1, 1].
    """
    difference = (x.clamp(-1, 1) - x_hat.clamp(-1, 1)).double() / 2
    return float(difference.square().mean())


def psnr(error: float) -> float:
    """Peak signal-to-noise ratio in dB, -10 log10(error), of a mean squared error at peak 1."""
    return -10 * math.log10(error) if error > 0 else math.inf


def mean_psnr(x: Tensor, x_hat: Tensor) -> float:
    """The mean over images of their PSNR in dB, each at most 100 dB; (B, C, H, W) in [-1, 1]."""
    difference = (x.clamp(-1, 1) - x_hat.clamp(-1, 1)).double() / 2
    return float(psnr_of_each(difference.square().mean(dim=(1, 2, 3))).mean())


def mean_colours(x: Tensor) -> Tensor:
    """Images (B, C, H, W), each painted in its own mean colour."""
    return x.mean(dim=(2, 3), keepdim=True).expand_as(x)


def unigram_cross_entropy(codes: Tensor, counts: Tensor) -> float:
    """Nats per code of `codes` under the frequencies `counts`, with one added to every count.

    The one (Laplace's rule) gives codes that were never counted a finite cost.

    Args:
        codes: int64 of any shape, in [0, K).
        counts: (K,), how often each code was seen in training.
    """
    smoothed = counts.double() + 1
    log_frequencies = (smoothed / smoothed.sum()).log()
    return float(-log_frequencies[codes.flatten()].mean())


def code_counts(codes: Tensor, num_codes: int) -> Tensor:
    """(K,) int64, how often each code occurs in `codes` (int64 of any shape)."""
    return torch.bincount(codes.flatten(), minlength=num_codes)
