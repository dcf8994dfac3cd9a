"""The nearest code on numpy arrays, without torch.

from vqgan_fast.numpy import nearest_code
indices, distances = nearest_code(z, codebook)
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _native

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
        z: (..., N, D) float16, float32 or float64. Strided arrays are read in place where their
            rows have at most two strides, as a (B, D, H, W) array moved to (B, H, W, D) has.
        codebook: (K, D), or (..., K, D) with the leading axes of `z`: a codebook for each.
        precision: "exact", or "fast" to take the winner of an fp32 pass without proving it.
        return_distance: whether to return the distances as well.
        num_threads: threads to use, at least 1.

    Returns:
        indices (..., N) int64, or with `return_distance` (indices, distances); the distances
        (..., N) are float64 if an input is, else float32. A row of `z` that is not finite has
        index 0 and a NaN distance.

    Raises:
        ValueError: a shape, dtype, `precision` or `num_threads` other than these.
    """
    if precision not in ("exact", "fast"):
        raise ValueError(f'precision must be "exact" or "fast", got {precision!r}')
    z, codebook = np.asarray(z), np.asarray(codebook)
    exact = precision == "exact"
    if codebook.ndim <= 2:
        indices, distances = _native.nearest_code(z, codebook, exact, return_distance, num_threads)
        return (indices, distances) if return_distance else indices

    leading = codebook.shape[:-2]
    if z.shape[:-2] != leading:
        raise ValueError(
            f"codebook must be (K, D), or (..., K, D) with the leading axes {z.shape[:-2]} of z, "
            f"got {codebook.shape}"
        )
    indices = np.empty(z.shape[:-1], np.int64)
    distances = np.empty(z.shape[:-1], np.float64 if _is_fp64(z, codebook) else np.float32)
    for head in np.ndindex(leading):
        indices[head], found = _native.nearest_code(
            z[head], codebook[head], exact, return_distance, num_threads
        )
        if return_distance:
            distances[head] = found
    return (indices, distances) if return_distance else indices


def _is_fp64(*arrays: np.ndarray) -> bool:
    return any(array.dtype == np.float64 for array in arrays)
