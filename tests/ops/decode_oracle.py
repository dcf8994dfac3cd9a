"""The decode ops' orders of summation as scalar loops, with the C library's fused multiply-add."""

from __future__ import annotations

import ctypes
import ctypes.util

import numpy as np
import torch
from torch import Tensor

_LIBM = ctypes.CDLL(ctypes.util.find_library("m"))
_LIBM.fmaf.restype = ctypes.c_float
_LIBM.fmaf.argtypes = (ctypes.c_float,) * 3
fma = _LIBM.fmaf
SEGMENT = 64
CHAINS = 32


def dot(x: list[float], w: list[float]) -> np.float32:
    """Chains over segments of 64, added in order."""
    total = None
    for begin in range(0, len(x), SEGMENT):
        chain = 0.0
        for a, b in zip(x[begin : begin + SEGMENT], w[begin : begin + SEGMENT], strict=True):
            chain = fma(a, b, chain)
        total = np.float32(chain) if total is None else total + np.float32(chain)
    return total


def linear(x: Tensor, weight: Tensor, bias: Tensor, scales: Tensor | None = None) -> Tensor:
    """x (R, K), weight (N, K) as it is held, bias (N,)."""
    y = np.empty((len(x), len(weight)), np.float32)
    for r, row in enumerate(x.tolist()):
        for n, w in enumerate(weight.tolist()):
            total = dot(row, w)
            if scales is not None:
                total = total * np.float32(scales[n].item())
            y[r, n] = total + np.float32(bias[n].item())
    return torch.from_numpy(y)


def chain_sum(values: np.ndarray, squares: bool = False) -> np.float32:
    """32 chains, added as a tree; of squares by fused multiply-adds."""
    chains = np.zeros(CHAINS, np.float32)
    for i, value in enumerate(values):
        c = i % CHAINS
        chains[c] = fma(value, value, chains[c]) if squares else chains[c] + value
    while len(chains) > 1:
        chains = chains[: len(chains) // 2] + chains[len(chains) // 2 :]
    return chains[0]


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    out = np.empty(x.shape, np.float32)
    count = np.float32(x.shape[1])
    for r, row in enumerate(x.numpy()):
        difference = row - chain_sum(row) / count
        variance = chain_sum(difference, squares=True) / count
        scale = np.float32(1) / np.sqrt(variance + np.float32(eps))
        for i, value in enumerate(difference * scale):
            out[r, i] = fma(value, weight[i].item(), bias[i].item())
    return torch.from_numpy(out)
