"""Plain-torch definition of `sample_logits`: from logits to a code."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..decode_checks import check_logits
from .philox import gumbel_noise

# Probabilities are summed as multiples of 2^-40 of the largest one: integer sums have no rounding,
# so that the set that top-p keeps does not depend on the order of summation. 2^40 leaves room for
# 2^22 codes.
FIXED_POINT = 2.0**40


def sample_logits(
    logits: Tensor,
    seeds: Tensor,
    cells: Tensor,
    uncond_logits: Tensor | None,
    guidance: float,
    temperature: float,
    top_k: int,
    top_p: float,
    log_min_p: float,
) -> tuple[Tensor, Tensor]:
    """The `sample_logits` op: temperature 0 is greedy; top_k 0, top_p 1, log_min_p -inf: all."""
    check_logits(logits, seeds, cells, uncond_logits, top_k)
    guided = logits.double()
    if uncond_logits is not None:
        uncond = uncond_logits.double()
        forbidden = (guided == -math.inf) | (uncond == -math.inf)
        guided = (uncond + guidance * (guided - uncond)).masked_fill(forbidden, -math.inf)
    highest = guided.amax(-1, keepdim=True)  # NaN where the row holds one
    bad = (~highest.isfinite()).nonzero()
    if bad.numel() > 0:
        row = int(bad[0, 0])
        raise RuntimeError(
            "logits must hold no NaN or +inf, and a finite value in each row: the largest of row "
            f"{row} is {float(highest[row])}"
        )
    relative = guided - highest
    codes = guided.argmax(-1)
    if temperature > 0:
        scores = filtered(relative / temperature, top_k, top_p, log_min_p)
        every_code = torch.arange(logits.shape[1], device=logits.device)
        codes = (scores + gumbel_noise(seeds, cells, every_code)).argmax(-1)
    total = fixed_point_mass(relative).sum(-1).double() / FIXED_POINT
    chosen = relative.gather(-1, codes[:, None]).squeeze(-1)
    return codes, (chosen - total.log()).float()


def filtered(scores: Tensor, top_k: int, top_p: float, log_min_p: float) -> Tensor:
    """scores (B, V) fp64, 0 the largest of each row, with -inf where a code may not be drawn.

    Equal scores count as ranked by their codes, lowest first.
    """
    dropped = torch.zeros_like(scores, dtype=torch.bool)
    if 0 < top_k < scores.shape[1]:
        dropped |= ~_likeliest(scores, top_k)
    if top_p < 1:
        kept = scores.masked_fill(dropped, -math.inf)
        dropped |= ~_nucleus(kept, top_p)
    dropped |= scores < log_min_p
    return scores.masked_fill(dropped, -math.inf)


def fixed_point_mass(scores: Tensor) -> Tensor:
    """exp(scores) in units of 2^-40, rounded to nearest even, int64."""
    return (scores.exp() * FIXED_POINT).round().long()


def _likeliest(scores: Tensor, k: int) -> Tensor:
    """Which of the scores (B, V) are the k highest; ties count from the lowest code."""
    kth = scores.topk(k).values[:, -1:]
    above, tied = scores > kth, scores == kth
    room = k - above.sum(-1, keepdim=True)
    return above | (tied & (tied.cumsum(-1) <= room))


def _nucleus(scores: Tensor, share: float) -> Tensor:
    """Which of the scores (B, V) are the fewest highest that hold `share` of the probability."""
    ranked, order = scores.sort(dim=-1, descending=True, stable=True)
    mass = fixed_point_mass(ranked)
    likelier = mass.cumsum(-1) - mass
    kept = likelier < share * mass.sum(-1, keepdim=True).double()
    return torch.empty_like(kept).scatter_(-1, order, kept)
