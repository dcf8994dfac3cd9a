"""A linear layer whose every output is the same bits whatever runs beside it."""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference
from .decode_checks import check_packed_linear
from .packed_weight import PackedWeight, check_packed_weight
from .registration import check_tensors, register_fallback

_OP = "vqgan_fast::packed_linear"


@torch.no_grad()
def packed_linear(
    x: Tensor, packed: PackedWeight, bias: Tensor | None = None, activation: str | None = None
) -> Tensor:
    """y = activation(x W^T + bias), batch-invariant: a row's result depends on that row alone.

    Sums are fp32 fused multiply-adds over K in an order that depends neither on the number of rows,
    a row's place, threads nor the instruction set (`docs/decode_numerics.md`). One row runs at
    memory speed, many rows at that of arithmetic.

    Args:
        x: (R, K) float32.
        packed: a weight (N, K) from :func:`vqgan_fast.ops.pack_linear`.
        bias: (N,) float32 or None.
        activation: None, or "gelu" for x Phi(x).

    Returns:
        (R, N) float32. No gradients: training has `torch.nn.Linear`.

    Raises:
        TypeError: x or bias is no tensor, or packed is no packed weight.
        ValueError: activation is neither.
        RuntimeError: sizes, types or devices do not fit.
    """
    if activation not in (None, "gelu"):
        raise ValueError(f'activation must be None or "gelu", got {activation!r}')
    check_packed_weight(packed)
    weight, scales, out_features = packed
    check_tensors(x=x, weight=weight, scales=scales, bias=bias)
    return torch.ops.vqgan_fast.packed_linear(
        x, weight, scales, bias, out_features, activation == "gelu"
    )


register_fallback(_OP, reference.packed_linear)


@torch.library.register_fake(_OP)
def _fake(
    x: Tensor,
    weight: Tensor,
    scales: Tensor | None,
    bias: Tensor | None,
    out_features: int,
    gelu: bool,
) -> Tensor:
    check_packed_linear(x, weight, scales, bias, out_features)
    return x.new_empty((x.shape[0], out_features))
