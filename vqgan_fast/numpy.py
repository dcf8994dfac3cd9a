"""The nearest code on numpy arrays, without torch.

from vqgan_fast.numpy import nearest_code
indices, distances = nearest_code(z, codebook)
"""

from __future__ import annotations

import operator
import sys
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

try:
    from . import _native
except ImportError as error:
    raise ImportError(
        "vqgan_fast.numpy needs the compiled module _native, and this installation has none that "
        f"loads in Python {sys.version_info[0]}.{sys.version_info[1]} ({error}): install a wheel "
        "for it, or from the sources (pip install .)"
    ) from error

__all__ = ["nearest_code"]


def nearest_code(
    z: ArrayLike,
    codebook: ArrayLike,
    precision: Literal["exact", "fast"] = "exact",
    return_distance: bool = True,
    num_threads: int = 1,
) -> NDArray[np.int64] | tuple[NDArray[np.int64], NDArray[np.floating]]:
    """The index of the nearest codebook row for every row of `z`, and the squared distance to it.

        index[n] = argmin_k sum_d (z[n, d] - codebook[k, d])^2

    evaluated in fp64 on the inputs as given, ties to the lowest k: the same index as
    `vqgan_fast.ops.nearest_code` gives, at any number of threads. The GIL is released meanwhile.

    Args:
        z: (..., N, D) float16, float32 or float64 in native byte order. Read in place where its
            rows have at most two strides, as a (B, D, H, W) array moved to (B, H, W, D) has.
        codebook: (K, D), or (..., K, D) with the leading axes of `z`: a codebook for each.
        precision: "exact", or "fast" for what may skip a proof; on a CPU nothing is faster than the
            exact search, and both are the same.
        return_distance: whether to return the distances as well.
        num_threads: threads to use, at least 1.

    Returns:
        indices (..., N) int64, or with `return_distance` (indices, distances); the distances
        (..., N) are float64 if an input is, else float32. A row of `z` that is not finite has
        index 0 and a NaN distance.

    Raises:
        ValueError: a shape, dtype, `precision` or `num_threads` other than these, or an array with
            masked elements.
        TypeError: `num_threads` is no integer.
    """
    if precision not in ("exact", "fast"):
        raise ValueError(f'precision must be "exact" or "fast", got {precision!r}')
    try:
        # No machine has more threads than that, and C++ could not take any integer.
        num_threads = max(-(1 << 16), min(operator.index(num_threads), 1 << 16))
    except TypeError:
        raise TypeError(f"num_threads must be an integer, got {num_threads!r}") from None
    indices, distances = _native.nearest_code(
        _plain(z, "z"),
        _plain(codebook, "codebook"),
        bool(return_distance),
        num_threads,
    )
    return (indices, distances) if return_distance else indices


def _plain(array: ArrayLike, name: str) -> np.ndarray:
    """As an array whose numbers all count: what a mask hides is no latent and no code."""
    if np.ma.is_masked(array):
        raise ValueError(
            f"{name} must not have masked elements, got {np.ma.count_masked(array)} of them: fill "
            "them, with NaN to leave their rows out"
        )
    return np.asarray(array)
