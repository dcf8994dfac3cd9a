"""The terms of the loss of a VectorQuantize."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ...ops.checks import accumulation_type
from ...quantizers.precision import without_autocast
from .search import normalize


class LossBreakdown(NamedTuple):
    """The terms of the loss before they are weighted, scalars; those not in use are 0."""

    commitment: Tensor
    codebook_diversity: Tensor
    orthogonal_reg: Tensor
    inplace_optimize: Tensor


def mean_squared_error(codes: Tensor, latents: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of (codes - latents)^2 over the elements, (..., D) each, where mask (...) is True."""
    # Not F.mse_loss: what torch.compile takes for the strides of its gradient are not those it has.
    wide = accumulation_type(codes, latents)
    error = (codes.to(wide) - latents.to(wide)).square()
    if mask is None:
        return error.mean()
    error = torch.where(mask.unsqueeze(-1), error, 0)
    return error.sum() / (mask.sum() * error.shape[-1])


def cross_entropy_of_codes(latents: Tensor, codes: Tensor, targets: Tensor, cosine: bool) -> Tensor:
    """Mean of -log softmax(scores)[target], with minus the distance to a code as its score.

    Or, for cosine similarity, the inner product. The scores are held as a matrix, (H, ..., K), in
    fp32 at least, under autocast too.

    Args:
        latents: (H, ..., D).
        codes: (H, K, D).
        targets: (H, ...) int64, -1 for latents that do not count.
    """
    wide = accumulation_type(latents, codes)
    rows, codes = latents.flatten(1, -2).to(wide), codes.to(wide)
    with without_autocast(latents.device):
        scores = rows @ codes.mT if cosine else -_distances(rows, codes)
        return F.cross_entropy(scores.flatten(0, 1), targets.flatten(), ignore_index=-1)


def _distances(rows: Tensor, codes: Tensor) -> Tensor:
    """The distances (H, N, K) of rows (H, N, D) and codes (H, K, D)."""
    norms = rows.square().sum(-1, keepdim=True) + codes.square().sum(-1).unsqueeze(1)
    return torch.baddbmm(norms, rows, codes.mT, alpha=-2).clamp(min=1e-8).sqrt()


def orthogonal_loss(codes: Tensor, active: Tensor | None, most: int | None) -> Tensor:
    """How far the codes are from orthogonal (Shin et al., 2021, arXiv 2112.00384, eq. 2).

    sum over heads, i, j of cos(e_i, e_j)^2 / (H K^2) - 1 / K. The K x K cosines are held.

    Args:
        codes: (H, K, D).
        active: indices of any shape: only the codes among them.
        most: only so many of these, by random choice.
    """
    if active is not None:
        codes = codes[:, active.unique()]
    if most is not None and codes.shape[1] > most:
        codes = codes[:, torch.randperm(codes.shape[1], device=codes.device)[:most]]
    heads, num_codes, _ = codes.shape
    unit = normalize(codes)
    cosines = unit @ unit.mT
    return cosines.square().sum() / (heads * num_codes**2) - 1 / num_codes
