"""Which code is nearest: by fp64 products, and by the scalar definition where they cannot tell.

Independent of the kernels that it judges, and much faster than the scalar loop alone. Scores
0.5 |e|^2 - z . e of the inputs as given are computed in fp64. With u = 2^-53 and
g = (2 D + 16) u / (1 - (2 D + 16) u), a score errs by at most g (0.5 |e|^2 + |z| |e|), in whatever
order the at most 2 D + 3 roundings of a term come; and the definition, itself a rounded sum, can
prefer a code whose true score is larger by up to g (|z| + |e|)^2 (docs/numerics.md, "The fp32
screen", in fp64). So the definition's choice lies within twice the one plus the other of the
smallest score. Where only one code does, it is that code; every other row is given to the scalar
definition, with the codes that lie within for some row of its group. Equal codes are at equal
distances by the definition too, so they are judged as one.

Most of the time goes into seeing that an index is right, for which one product and one pass for the
smallest of the other scores are enough: that is what the guess is for. It decides nothing.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

import vqgan_fast.ops  # loads the op library

BLOCK_ELEMENTS = 1 << 17  # scores held at a time: within the L2 cache
LEAST_ROWS = 64  # held at a time, so that a product with many codes stays one
GROUP = 16  # rows that the scalar definition gets at a time
LEAST, MOST = 1e-100, 1e100  # norms between which no square or sum leaves the normal numbers


def scalar(z: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """Indices and fp64 distances by the scalar definition."""
    assert vqgan_fast.ops is not None
    oracle = torch.ops.vqgan_fast._nearest_code_oracle
    return oracle(z.double().contiguous(), codebook.double().contiguous())


def different(codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The different rows of codes (K, D) in the order in which they first come, the first index of
    each, and where among them each code is (K,)."""
    _, dim = codes.shape
    as_one = codes.contiguous().numpy().view(np.dtype((np.void, 8 * dim)))[:, 0]
    _, first, place = np.unique(as_one, return_index=True, return_inverse=True)
    order = first.argsort()
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    lowest = torch.from_numpy(first[order])
    return codes[lowest], lowest, torch.from_numpy(rank[place.reshape(-1)])


def decide(z: Tensor, codes: Tensor, near: Tensor) -> tuple[Tensor, int]:
    """The definition's index (N,) for fp64 z (N, D) among the codes (K, D) that near (N, K) allows,
    and for how many rows the scalar definition was asked."""
    indices = near.byte().argmax(1)
    tied = (near.sum(1) != 1).nonzero()[:, 0]
    for start in range(0, len(tied), GROUP):
        rows = tied[start : start + GROUP]
        # In ascending order, so that the lowest of equals stays the lowest.
        candidates = near[rows].any(0).nonzero()[:, 0]
        indices[rows] = candidates[scalar(z[rows], codes[candidates])[0]]
    return indices, len(tied)


def nearest(z: Tensor, codebook: Tensor, guess: Tensor | None = None) -> tuple[Tensor, int]:
    """The definition's index (N,) for finite z (N, D) and codebook (K, D), N >= 1.

    Args:
        guess: (N,) indices that may be right, which saves time where they are.

    Returns:
        the indices, and how many of them the scalar definition had to decide.
    """
    rows, codes = z.double(), codebook.double()
    largest = codes.norm(dim=1).max()
    codes, lowest, place = different(codes)
    if guess is None:
        guess = torch.zeros(len(rows), dtype=torch.int64)
    guess = place[guess.clamp(0, len(place) - 1)][:, None]

    norms = rows.norm(dim=1)
    unit = 2.0**-53 * (2 * codes.shape[1] + 16)
    unit /= 1 - unit
    margins = unit * (2 * (0.5 * largest.square() + norms * largest) + (norms + largest).square())
    in_range = (norms <= MOST) & (largest >= LEAST) & (largest <= MOST)

    # The half square is one more product, with 1, so that one gemm writes the scores.
    extended = torch.cat([rows, torch.ones(len(rows), 1, dtype=torch.float64)], 1)
    factors = torch.cat([-codes, 0.5 * codes.square().sum(1, keepdim=True)], 1).t()
    block = min(len(rows), max(LEAST_ROWS, BLOCK_ELEMENTS // len(codes)))
    scores = torch.empty(block, len(codes), dtype=torch.float64)
    guessed = torch.empty(len(rows), 1, dtype=torch.float64)
    others = torch.empty(len(rows), dtype=torch.float64)
    indices = guess[:, 0].clone()
    num_scalar = 0
    for start in range(0, len(rows), block):
        part = slice(start, min(start + block, len(rows)))
        held = scores[: part.stop - start]
        torch.mm(extended[part], factors, out=held)
        torch.gather(held, 1, guess[part], out=guessed[part])
        held.scatter_(1, guess[part], torch.inf)
        torch.amin(held, 1, out=others[part])
        limits = limit(guessed[part, 0], margins[part])
        unclear = (~((others[part] > limits) & in_range[part])).nonzero()[:, 0]
        if len(unclear) > 0:
            near = held[unclear].scatter_(1, guess[part][unclear], guessed[part][unclear])
            limits = limit(near.amin(1), margins[part][unclear])
            near = (near <= limits[:, None]) | ~in_range[part][unclear, None]
            indices[start + unclear], count = decide(rows[part][unclear], codes, near)
            num_scalar += count
    return lowest[indices], num_scalar


def limit(best: Tensor, margins: Tensor) -> Tensor:
    """best + margins, with the roundings of the sum itself upwards."""
    return best + margins + 4 * 2.0**-53 * (best.abs() + margins)
