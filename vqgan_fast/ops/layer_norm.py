"""LayerNorm in a fixed order of sums."""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference
from .decode_checks import check_layer_norm
from .registration import check_tensors, register_fallback

_OP = "vqgan_fast::layer_norm"


@torch.no_grad()
def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last dimension, batch-invariant.

    Mean and (biased) variance are taken in two passes, each an fp32 sum in the order of
    `docs/decode_numerics.md` (Ba, Kiros and Hinton, 2016).

    Args:
        x: (R, C) float32.
        weight, bias: (C,) float32.
        eps: >= 0.

    Returns:
        (R, C) float32, without gradients.

    Raises:
        TypeError: an argument is no tensor.
        RuntimeError: sizes, types or devices do not fit.
    """
    check_tensors(x=x, weight=weight, bias=bias)
    return torch.ops.vqgan_fast.layer_norm(x, weight, bias, eps)


register_fallback(_OP, reference.layer_norm)


@torch.library.register_fake(_OP)
def _fake(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    check_layer_norm(x, weight, bias, eps)
    return x.new_empty(x.shape)
