"""The nearest code of every latent."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from . import reference
from .checks import accumulation_type, check_search, is_exact
from .registration import check_tensors, may_skip_autograd, refuse_forward_mode, register_fallback

_OP = "vqgan_fast::nearest_code"
_NO_GRAD = "vqgan_fast::_nearest_code_no_grad"


@overload
def nearest_code(
    z: Tensor, codebook: Tensor, precision: str = ..., return_distance: Literal[True] = ...
) -> tuple[Tensor, Tensor]: ...


@overload
def nearest_code(
    z: Tensor, codebook: Tensor, precision: str = ..., *, return_distance: Literal[False]
) -> Tensor: ...


@overload
def nearest_code(
    z: Tensor, codebook: Tensor, precision: str, return_distance: Literal[False]
) -> Tensor: ...


def nearest_code(
    z: Tensor, codebook: Tensor, precision: str = "exact", return_distance: bool = True
) -> tuple[Tensor, Tensor] | Tensor:
    """The index of, and squared distance to, the code nearest to each latent.

        index[n] = argmin_k  sum_d (z[n, d] - codebook[k, d])^2,   ties to the lowest k

    "exact" evaluates the sum in fp64, d ascending, on the inputs as given: the same index for every
    device, thread count, batch split and memory layout. "fast" allows an implementation to skip
    the proof that its choice is that one: CUDA does, the CPU does not, because it costs it little.
    The distance is the fp64 sum for the chosen code. A latent with a NaN or an infinity gets index
    0 and distance NaN; a code with a NaN is never chosen (index 0 if all have one). The N x K
    distances are never held. `docs/numerics.md` has the definition and the proofs.

    Source: van den Oord et al., "Neural Discrete Representation Learning", 2017, eq. 2.

    Args:
        z: latents (..., N, D), float16, bfloat16, float32 or float64, with any strides: images
            (B, D, H, W) are passed as `z.movedim(1, -1)` and read in place.
        codebook: (K, D); or (..., K, D) with the leading sizes of z, a codebook for each head. Its
            type may differ from that of z.
        precision: "exact" or "fast".
        return_distance: also return the distances.

    Returns:
        indices (..., N) int64, and distances (..., N), float32 (float64 if an input is), in squared
        units of z. The distance is differentiable with the choice held fixed: its gradient is
        2 (z - e) for z and minus that, summed over the rows of a code, for the codebook.

    Raises:
        TypeError: an argument is no tensor.
        ValueError: precision is unknown.
        RuntimeError: sizes, types or devices do not fit; K or D is 0.
    """
    if not (isinstance(z, Tensor) and isinstance(codebook, Tensor)):
        check_tensors(z=z, codebook=codebook)
    refuse_forward_mode("nearest_code", z, codebook)
    skips = may_skip_autograd(z, codebook)
    ops = torch.ops.vqgan_fast
    op = ops._nearest_code_no_grad.default if skips else ops.nearest_code.default
    indices, distances = op(z, codebook, is_exact(precision))
    return (indices, distances) if return_distance else indices


# In the order of NearestCodeCounters in csrc/kernels/cpu/nearest_code_counters.h.
_COUNTERS = (
    "calls_direct",
    "calls_fp32",
    "calls_int16",
    "calls_int8",
    "calls_boxes",
    "calls_clusters",
    "calls_cached",
    "rows_screen",
    "rows_candidates",
    "rows_direct",
    "rows_scan",
    "rows_not_finite",
)


def nearest_code_counters(reset: bool = False) -> dict[str, int]:
    """What the CPU kernel of `nearest_code` has done in this process.

    `vector_quantize` counts as well. `docs/numerics.md` explains the screens and the searches.

    Args:
        reset: start again from zero.

    Returns:
        calls_direct, calls_fp32, calls_int16, calls_int8, calls_boxes: searches (one for each
            codebook) by the way that was chosen for them: directly, or through one of the four
            screens.
        calls_clusters: those in which clusters of codes were screened apart, because the screen
            that was chosen had left many rows; counted beside it.
        calls_cached: those that found the codebook packed by an earlier one.
        rows_screen, rows_candidates, rows_direct, rows_scan, rows_not_finite: latents by what
            decided them: one code left by the screen; several, measured in fp64; the direct search;
            a scan of all codes in fp64; nothing, because an element was not finite.
    """
    counts = torch.zeros(len(_COUNTERS), dtype=torch.int64)
    torch.ops.vqgan_fast._nearest_code_counters(counts, reset)
    return dict(zip(_COUNTERS, counts.tolist(), strict=True))


for _op in (_OP, _NO_GRAD):
    register_fallback(_op, reference.nearest_code)


@torch.library.register_fake(_NO_GRAD)
@torch.library.register_fake(_OP)
def _fake(z: Tensor, codebook: Tensor, exact: bool) -> tuple[Tensor, Tensor]:
    check_search(z, codebook)
    shape = z.shape[:-1]
    distances = z.new_empty(shape, dtype=accumulation_type(z, codebook))
    return z.new_empty(shape, dtype=torch.int64), distances


def _setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    z, codebook, _ = inputs
    ctx.save_for_backward(z, codebook, output[0])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, _: None, grad_distances: Tensor | None) -> tuple:
    if grad_distances is None:
        return None, None, None
    z, codebook, indices = ctx.saved_tensors
    # In the type of the distances: in fp16 a difference can overflow.
    difference = z.to(grad_distances.dtype) - reference.lookup(codebook, indices)
    gradient = 2 * grad_distances.unsqueeze(-1) * difference
    grad_z = grad_codebook = None
    if ctx.needs_input_grad[0]:
        grad_z = gradient.to(z.dtype)
    if ctx.needs_input_grad[1]:
        grad_codebook = -reference.sum_by_code(gradient, indices, codebook).to(codebook.dtype)
    return grad_z, grad_codebook, None


torch.library.register_autograd(_OP, _backward, setup_context=_setup_context)
