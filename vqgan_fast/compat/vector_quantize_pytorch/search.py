"""Codebooks with a head axis: the nearest code, its vector, and sums by code, without N x K."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ... import ops


def normalize(vectors: Tensor) -> Tensor:
    """Vectors of length 1 along the last dimension; those shorter than 1e-6 are divided by that."""
    return F.normalize(vectors, dim=-1, eps=1e-6)


@torch.no_grad()
def nearest(latents: Tensor, codebook: Tensor, cosine: bool) -> Tensor:
    """The code of each latent.

    Args:
        latents: (H, ..., D), any strides where H = 1.
        codebook: (H, K, D).
        cosine: by the largest inner product instead of the smallest distance.

    Returns:
        indices (H, ...) int64; the lowest among equals.
    """
    if cosine:
        latents, codebook = F.pad(latents, (0, 1)), _lift(codebook)
    if len(codebook) == 1:
        return ops.nearest_code(latents[0], codebook[0], return_distance=False)[None]
    rows = latents.flatten(1, -2)
    indices = ops.nearest_code(rows, codebook, return_distance=False)
    return indices.unflatten(1, latents.shape[1:-1])


def _lift(codebook: Tensor) -> Tensor:
    """Codes with one more coordinate, that makes all of a codebook equally long.

    For latents whose additional coordinate is 0, inner products stay, and as squared distances are
    |z|^2 + |e|^2 - 2 z.e, the nearest of equally long codes has the largest one (Bachrach et al.,
    2014, "Speeding up the Xbox recommender system"). Codes of length 1 need no such thing; but a
    moving average that has had no latent for long shrinks to nothing. In fp64, so that rounding
    the coordinate moves no choice that fp32 inputs can tell.
    """
    wide = codebook if codebook.device.type == "mps" else codebook.double()
    squared = wide.square().sum(-1, keepdim=True)
    rest = squared.amax(-2, keepdim=True) - squared
    return torch.cat([wide, rest.sqrt()], dim=-1)


def lookup(codebook: Tensor, indices: Tensor) -> Tensor:
    """The codes (H, ..., D) that indices (H, ...) name in (H, K, D); differentiable in these."""
    return F.embedding(_in_one_table(indices, codebook.shape[1]), codebook.flatten(0, 1))


@torch.no_grad()
def statistics(
    latents: Tensor, indices: Tensor, mask: Tensor | None, num_codes: int
) -> tuple[Tensor, Tensor]:
    """How many latents each code has, and their sum.

    Args:
        latents: (H, ..., D).
        indices: (H, ...) int64.
        mask: (H, ...) bool, False for latents that do not count.
        num_codes: K.

    Returns:
        counts (H, K) and sums (H, K, D), both float32 (float64 if the latents are).
    """
    heads = len(indices)
    size = heads * num_codes
    indices = _in_one_table(indices, num_codes)
    if mask is not None:
        indices = torch.where(mask, indices, size)  # a code beyond all others, dropped below
    if heads == 1:
        latents, indices = latents[0], indices[0]
    counts, sums = ops.codebook_stats(latents, indices, size + (mask is not None))
    counts, sums = counts[:size].unflatten(0, (heads, -1)), sums[:size].unflatten(0, (heads, -1))
    return counts.to(sums.dtype), sums


def _in_one_table(indices: Tensor, num_codes: int) -> Tensor:
    """Indices (H, ...) of H codebooks as those of their concatenation."""
    if len(indices) == 1:
        return indices
    offsets = torch.arange(0, len(indices) * num_codes, num_codes, device=indices.device)
    return indices + offsets.view(-1, *[1] * (indices.ndim - 1))
