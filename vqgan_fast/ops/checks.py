"""What every op asks of its arguments, as `csrc/ops/checks.h` has it in C++.

The compiled kernels check for themselves; this is for the fake kernels, which see shapes before any
kernel runs, and for devices that have no kernel. A tensor that does not fit is a RuntimeError here
as it is there; a ValueError is an option that no kernel gets to see.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

FLOAT_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def is_exact(precision: str) -> bool:
    """The ops' `exact` flag for a `precision` argument.

    Raises:
        ValueError: precision is neither "exact" nor "fast".
    """
    if precision not in ("exact", "fast"):
        raise ValueError(f'precision must be "exact" or "fast", got {precision!r}')
    return precision == "exact"


def check_float(tensor: Tensor, name: str) -> None:
    """A dense tensor of one of FLOAT_TYPES."""
    _check_dense(tensor, name)
    if tensor.dtype not in FLOAT_TYPES:
        raise RuntimeError(
            f"{name} must be float16, bfloat16, float32 or float64, got {tensor.dtype}"
        )


def check_search(z: Tensor, codebook: Tensor) -> None:
    """z (..., N, D) against codebook (K, D), or (..., K, D) with the leading sizes of z."""
    check_float(z, "z")
    check_float(codebook, "codebook")
    if codebook.device != z.device:
        raise RuntimeError(f"codebook must be on {z.device} like z, got {codebook.device}")
    _check_rows(z)
    shape = tuple(codebook.shape)
    if codebook.dim() < 2:
        raise RuntimeError(f"codebook must be (K, D) or (..., K, D), got {shape}")
    if codebook.shape[-1] != z.shape[-1]:
        form = "(K, D)" if codebook.dim() == 2 else "(..., K, D)"
        raise RuntimeError(f"codebook must be {form} with D = {z.shape[-1]}, got {shape}")
    if codebook.shape[-2] < 1:
        raise RuntimeError(f"codebook must have at least one code, got {shape}")
    if codebook.dim() > 2 and codebook.shape[:-2] != z.shape[:-2]:
        raise RuntimeError(
            "codebook must be (K, D) or (..., K, D) with the leading sizes of z "
            f"{tuple(z.shape)}, got {shape}"
        )


def check_stats(z: Tensor, indices: Tensor, num_codes: int) -> None:
    """z (..., N, D) with one index below num_codes for each row."""
    check_float(z, "z")
    _check_rows(z)
    if num_codes < 1:
        raise RuntimeError(f"num_codes must be at least 1, got {num_codes}")
    most = (2**63 - 1) // 16 // z.shape[-1]  # whose sums have an address
    if num_codes > most:
        raise RuntimeError(
            f"num_codes must be at most {most} with D = {z.shape[-1]}, got {num_codes}"
        )
    _check_dense(indices, "indices")
    if indices.dtype != torch.int64:
        raise RuntimeError(f"indices must be int64, got {indices.dtype}")
    if indices.device != z.device:
        raise RuntimeError(f"indices must be on {z.device} like z, got {indices.device}")
    if indices.shape != z.shape[:-1]:
        raise RuntimeError(
            f"indices must have the shape of z {tuple(z.shape)} without its last dimension, "
            f"got {tuple(indices.shape)}"
        )


def check_soft_assign(
    z: Tensor,
    codebook: Tensor,
    values: Tensor | None,
    bias: Tensor | None,
    seed: Tensor | None,
    temperature: float,
) -> None:
    """z (..., N, D), codebook (K, D), values (K, C), bias (K,), seed of one element."""
    if codebook.dim() != 2:
        raise RuntimeError(f"codebook must be (K, D), got {tuple(codebook.shape)}")
    check_search(z, codebook)
    if not (temperature > 0 and math.isfinite(temperature)):
        raise RuntimeError(f"temperature must be positive and finite, got {temperature}")
    num_codes = codebook.shape[0]
    for name, tensor in (("values", values), ("bias", bias), ("seed", seed)):
        if tensor is not None and tensor.device != z.device:
            raise RuntimeError(f"{name} must be on {z.device} like z, got {tensor.device}")
    if values is not None:
        check_float(values, "values")
        if values.dim() != 2 or values.shape[0] != num_codes or values.shape[1] < 1:
            raise RuntimeError(
                f"values must be (K, C) with K = {num_codes} and C >= 1, got {tuple(values.shape)}"
            )
    if bias is not None:
        check_float(bias, "bias")
        if tuple(bias.shape) != (num_codes,):
            raise RuntimeError(f"bias must be (K,) with K = {num_codes}, got {tuple(bias.shape)}")
    if seed is not None and (seed.dtype != torch.int64 or seed.numel() != 1):
        raise RuntimeError(f"seed must be one int64, got {seed.dtype} of shape {tuple(seed.shape)}")


def soft_assign_type(*inputs: Tensor | None) -> torch.dtype:
    """The type of `soft_assign`'s results."""
    return accumulation_type(*(tensor for tensor in inputs if tensor is not None))


def accumulation_type(*inputs: Tensor) -> torch.dtype:
    """The type of distances, losses and sums: float32, or float64 if an input is."""
    fp64 = any(tensor.dtype == torch.float64 for tensor in inputs)
    return torch.float64 if fp64 else torch.float32


def _check_dense(tensor: Tensor, name: str) -> None:
    if tensor.layout != torch.strided:
        raise RuntimeError(f"{name} must be a dense tensor, got layout {tensor.layout}")


def _check_rows(z: Tensor) -> None:
    if z.dim() < 2:
        raise RuntimeError(f"z must be (..., N, D), got {tuple(z.shape)}")
    if z.shape[-1] < 1:
        raise RuntimeError(f"z must be (..., N, D) with D >= 1, got {tuple(z.shape)}")
