"""How the latents are spread over the codes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import reference
from .checks import accumulation_type, check_stats
from .registration import check_tensors, may_skip_autograd, refuse_forward_mode, register_fallback

_OP = "vqgan_fast::codebook_stats"
_NO_GRAD = "vqgan_fast::_codebook_stats_no_grad"


def codebook_stats(z: Tensor, indices: Tensor, num_codes: int) -> tuple[Tensor, Tensor]:
    """The number of latents of each code, and their sum.

        counts[k] = #{n : indices[n] = k}         sums[k] = sum of z[n] over those n

    What k-means and the moving-average codebook update need (van den Oord et al., 2017, appendix
    A.1). Sums are accumulated in fp64, n ascending: the same bits at every thread count.

    Args:
        z: latents (..., N, D), float16, bfloat16, float32 or float64, with any strides.
        indices: (..., N) int64, in [0, num_codes).
        num_codes: K.

    Returns:
        counts (K,) int64, and sums (K, D), float32 (float64 if z is), differentiable in z.

    Raises:
        TypeError: z or indices is no tensor.
        RuntimeError: sizes, types or devices do not fit; an index is out of range.
    """
    if not (isinstance(z, Tensor) and isinstance(indices, Tensor)):
        check_tensors(z=z, indices=indices)
    refuse_forward_mode("codebook_stats", z)
    skips = may_skip_autograd(z, indices)
    ops = torch.ops.vqgan_fast
    op = ops._codebook_stats_no_grad.default if skips else ops.codebook_stats.default
    return op(z, indices, num_codes)


for _op in (_OP, _NO_GRAD):
    register_fallback(_op, reference.codebook_stats)


@torch.library.register_fake(_NO_GRAD)
@torch.library.register_fake(_OP)
def _fake(z: Tensor, indices: Tensor, num_codes: int) -> tuple[Tensor, Tensor]:
    check_stats(z, indices, num_codes)
    sums = z.new_empty((num_codes, z.shape[-1]), dtype=accumulation_type(z))
    return z.new_empty(num_codes, dtype=torch.int64), sums


def _setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    z, indices, _ = inputs
    ctx.save_for_backward(indices)
    ctx.z_dtype = z.dtype
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, _: None, grad_sums: Tensor | None) -> tuple:
    if grad_sums is None:
        return None, None, None
    (indices,) = ctx.saved_tensors
    return grad_sums[indices].to(ctx.z_dtype), None, None


torch.library.register_autograd(_OP, _backward, setup_context=_setup_context)
