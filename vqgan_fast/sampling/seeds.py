"""One 64-bit seed for each image."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

Seeds = Sequence[int] | Tensor | np.ndarray


def count_seeds(seeds: Seeds) -> int:
    """How many images the seeds are for; ValueError if they are not a sequence."""
    if not isinstance(seeds, Sequence | Tensor | np.ndarray) or isinstance(seeds, str | bytes):
        raise ValueError(f"seeds must hold one integer for each image, got {seeds!r}")
    if isinstance(seeds, Tensor | np.ndarray) and seeds.ndim != 1:
        raise ValueError(f"seeds must have one dimension, got shape {tuple(seeds.shape)}")
    return len(seeds)


def image_seeds(seeds: Seeds | None, batch_size: int) -> Tensor:
    """The images' seeds as a (B,) int64 tensor on the CPU that holds their 64 bits.

    Args:
        seeds: one integer in [-2^63, 2^64) for each image (a negative one names the same bits as
            itself plus 2^64), as a sequence, a tensor or an array. None draws them from torch's
            global CPU generator, so that `torch.manual_seed` decides them.
        batch_size: how many images there are.

    Raises:
        ValueError: `seeds` is not one integer of 64 bits for each image.
    """
    if seeds is None:
        return torch.randint(torch.iinfo(torch.int64).max, (batch_size,), device="cpu")
    count = count_seeds(seeds)
    if count != batch_size:
        raise ValueError(
            f"seeds must hold one integer for each image, {batch_size} of them, got {count}"
        )
    values = seeds.tolist() if isinstance(seeds, Tensor | np.ndarray) else seeds
    for seed in values:
        if isinstance(seed, bool) or not isinstance(seed, Integral) or not -(2**63) <= seed < 2**64:
            raise ValueError(f"seeds must be integers in [-2^63, 2^64), got {seed!r}")
    signed = [int(seed) - 2**64 if seed >= 2**63 else int(seed) for seed in values]
    return torch.tensor(signed, dtype=torch.int64, device="cpu")
