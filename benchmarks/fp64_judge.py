"""Which code is nearest: by fp64 products, and by the scalar definition where they cannot tell.

Independent of the kernels that it judges, and much faster than the scalar loop alone. Scores
0.5 |e|^2 - z . e of the inputs as given are computed in fp64. With u = 2^-53 and
g = (D + 16) u / (1 - (D + 16) u), a score errs by at most g (0.5 |e|^2 + |z| |e|), in whatever
order its at most D + 3 roundings come; and the definition, itself a rounded sum, can prefer a code
whose true score is larger by up to g (|z| + |e|)^2 (docs/numerics.md, "The fp32 screen", in fp64). So
the definition's choice lies within twice the one plus the other of the smallest score. Where only
one code does, it is that code; every other row is given to the scalar definition, with the codes
that lie within for some row of its block.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

import vqgan_fast.ops  # loads the op library

BLOCK_ELEMENTS = 1 << 21  # scores held at a time
LEAST, MOST = 1e-100, 1e100  # norms between which no square or sum leaves the normal numbers


def scalar(z: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """Indices and fp64 distances by the scalar definition, rows shared between threads."""
    assert vqgan_fast.ops is not None
    oracle = torch.ops.vqgan_fast._nearest_code_oracle
    parts = z.double().contiguous().tensor_split(max(1, min(torch.get_num_threads(), len(z))))
    codes = codebook.double().contiguous()
    with ThreadPoolExecutor(len(parts)) as pool:
        found = list(pool.map(lambda part: oracle(part, codes), parts))
    return torch.cat([index for index, _ in found]), torch.cat([value for _, value in found])


def nearest(z: Tensor, codebook: Tensor) -> tuple[Tensor, int]:
    """The definition's index (N,) for finite z (N, D) and codebook (K, D), N >= 1.

    Returns:
        the indices, and how many of them the scalar definition had to decide.
    """
    rows, codes = z.double(), codebook.double()
    largest = codes.norm(dim=1).max()
    norms = rows.norm(dim=1)
    unit = 2.0**-53 * (codes.shape[1] + 16)
    unit /= 1 - unit
    margins = unit * (2 * (0.5 * largest.square() + norms * largest) + (norms + largest).square())
    in_range = (norms <= MOST) & (largest >= LEAST) & (largest <= MOST)

    half_squares = 0.5 * codes.square().sum(1)
    indices = torch.empty(len(rows), dtype=torch.int64)
    num_scalar = 0
    block = max(1, BLOCK_ELEMENTS // len(codes))
    for start in range(0, len(rows), block):
        part = slice(start, start + block)
        scores = torch.addmm(half_squares, rows[part], codes.t(), alpha=-1)
        best, indices[part] = scores.min(dim=1)
        limit = best + margins[part]
        # The limit's own rounding, upwards.
        limit += 4 * 2.0**-53 * (best.abs() + margins[part])
        near = (scores <= limit[:, None]) | ~in_range[part, None]
        unclear = (near.sum(1) != 1).nonzero()[:, 0]
        if len(unclear) > 0:
            # In ascending order, so that the lowest of equals stays the lowest.
            candidates = near[unclear].any(0).nonzero()[:, 0]
            found = scalar(rows[start + unclear], codes[candidates])[0]
            indices[start + unclear] = candidates[found]
            num_scalar += len(unclear)
    return indices, num_scalar
