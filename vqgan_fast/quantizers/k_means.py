"""k-means: a codebook without an encoder."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import ops
from .checks import check_integer, check_tensor


@torch.no_grad()
def k_means(rows: Tensor, num_codes: int, *, iterations: int = 50, seed: int = 0) -> Tensor:
    """Codes (K, D) that lower the mean squared distance of rows (N, D) to their nearest code.

    Lloyd's algorithm from K different rows: each row goes to its nearest code, each code to the
    mean of its rows; a code without rows to the row that is furthest from its code. It ends when
    nothing moves.

    Args:
        rows: at least K of them different.
        num_codes: K.
        iterations: at most this many.
        seed: of the choice of the first codes.

    Raises:
        TypeError: rows is no tensor.
        ValueError: fewer than K different rows, one that is not finite, or another shape; another
            argument that is no such integer.
    """
    check_tensor("rows", rows)
    check_integer("num_codes", num_codes)
    check_integer("iterations", iterations, minimum=0)
    check_integer("seed", seed, minimum=-(2**63), maximum=2**64 - 1)  # what torch takes
    if rows.ndim != 2:
        raise ValueError(f"rows must be (N, D), got {tuple(rows.shape)}")
    if not rows.isfinite().all():
        raise ValueError("rows must be finite, got a NaN or an infinity")
    different = rows.unique(dim=0)
    if len(different) < num_codes:
        raise ValueError(
            f"rows must hold at least num_codes = {num_codes} different ones, got {len(different)}"
        )
    generator = torch.Generator().manual_seed(seed)
    first = torch.randperm(len(different), generator=generator)[:num_codes]
    codebook = different[first.to(rows.device)]
    for _ in range(iterations):
        indices, distance = ops.nearest_code(rows, codebook)
        counts, sums = ops.codebook_stats(rows, indices, num_codes=num_codes)
        moved = (sums / counts.clamp_min(1)[:, None]).to(rows.dtype)
        empty = counts == 0
        moved[empty] = rows[distance.topk(int(empty.sum())).indices]
        if torch.equal(moved, codebook):
            break
        codebook = moved
    return codebook
