"""Normally distributed latents."""

from __future__ import annotations

import torch
from torch import Tensor


def latents(*shape: int, seed: int = 1) -> Tensor:
    """The same ones for the same seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
