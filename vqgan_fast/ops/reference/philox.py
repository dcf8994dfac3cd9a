"""Counter-based random numbers: the noise of one code at one cell of one image is a pure function.

Philox 4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC
2011) turns a key and a counter into four random words without any state. With the image's seed as
the key and (code, cell, draw, 0) as the counter, a draw depends on nothing else: not on the batch
it runs in, its row there, the order in which cells are visited, or the other images.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)  # the golden ratio and sqrt(3) - 1, in 32 bits
WORD = 0xFFFFFFFF

Words = Sequence[Tensor]


def philox_4x32(counter: Words, key: Words) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four output words of Philox 4x32-10.

    Args:
        counter: four int64 tensors with values in [0, 2^32), of shapes that broadcast with all
            others.
        key: two such tensors.

    Returns:
        Four int64 tensors with values in [0, 2^32), of the broadcast shape.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        # A product of two words needs 64 bits. int64 wraps to the right ones; the mask takes off
        # the sign that the shift spreads, and the high half of the product that became c1 or c3.
        product0, product1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1 = ((product1 >> 32) ^ c1 ^ k0) & WORD, product1
        c2, c3 = ((product0 >> 32) ^ c3 ^ k1) & WORD, product0
        k0, k1 = (k0 + KEY_INCREMENTS[0]) & WORD, (k1 + KEY_INCREMENTS[1]) & WORD
    return c0, c1 & WORD, c2, c3 & WORD


def uniform(seeds: Tensor, cells: Tensor | int, codes: Tensor, draw: int = 0) -> Tensor:
    """Uniform numbers in the open interval (0, 1), one for each code.

    With x the first word of philox_4x32(counter=(code, cell, draw, 0), key=(seed mod 2^32, seed >>
    32)), the number is (x + 1/2) / 2^32. It is exact in fp64 and never 0 or 1.

    Args:
        seeds: (B,) int64, the 64 bits of each image's seed (a negative number is its two's
            complement).
        cells: index of the cell in its grid, row * width + column: one int, or (B,) int64.
        codes: (V,) or (B, V) int64, the codes that want a number.
        draw: how often this cell has been drawn before; 0 unless a cell is drawn again.

    Returns:
        (B, V) fp64.
    """
    seeds = seeds[:, None]
    cells = torch.as_tensor(cells, device=codes.device).reshape(-1, 1)
    zero = torch.zeros_like(cells)
    counter = (codes, cells, zero + draw, zero)
    key = (seeds & WORD, (seeds >> 32) & WORD)
    return (philox_4x32(counter, key)[0].double() + 0.5) * 2.0**-32


def gumbel_noise(seeds: Tensor, cells: Tensor | int, codes: Tensor, draw: int = 0) -> Tensor:
    """Standard Gumbel noise -log(-log(u)) of :func:`uniform`'s numbers u, in fp64.

    The code with the largest logit plus noise is a draw from softmax(logits) (the Gumbel-max
    trick). Arguments and shape are those of :func:`uniform`; values lie in [-3.2, 22.9].
    """
    return -(-uniform(seeds, cells, codes, draw).log()).log()
