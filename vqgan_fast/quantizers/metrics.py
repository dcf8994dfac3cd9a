"""How much of a codebook is in use. Both figures take the counts of each code over any window."""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import check_tensor


def perplexity(counts: Tensor) -> Tensor:
    """exp of the entropy of the codes' frequencies: 1 (one code) to K (all codes alike).

    Args:
        counts: (K,) how often each code was chosen.

    Returns:
        A float32 scalar on the device of `counts`; NaN where nothing was counted.
    """
    check_tensor("counts", counts)
    frequencies = counts.float() / counts.sum()
    return torch.special.entr(frequencies).sum().exp()


def usage(counts: Tensor) -> Tensor:
    """The share of codes, 0 to 1, that were chosen at least once.

    Args:
        counts: (K,) how often each code was chosen.

    Returns:
        A float32 scalar on the device of `counts`.
    """
    check_tensor("counts", counts)
    return (counts > 0).float().mean()
