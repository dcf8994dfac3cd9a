"""The quantiser's forward and backward pass in one op each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import reference
from .checks import accumulation_type, check_search, check_stats, is_exact
from .registration import check_tensors, refuse_forward_mode, register_fallback

_OP = "vqgan_fast::vector_quantize"
_BACKWARD_OP = "vqgan_fast::vector_quantize_backward"


def vector_quantize(
    z: Tensor, codebook: Tensor, precision: str = "exact"
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Replaces each latent by its nearest code, straight-through, and measures the error.

        e[n] = codebook[index[n]]             index as in `nearest_code`
        z_q = z + (e - z).detach()
        commitment_loss = mean((e.detach() - z)^2)
        codebook_loss = mean((e - z.detach())^2)

    Both losses are plain means over all N D elements, with equal values and different gradients; a
    training loss weighs and adds them (van den Oord et al., 2017, eq. 3; the VQGAN of Esser et al.,
    2021, adds beta times one to the other). Gradients, with g_q, g_c and g_e those of z_q, of the
    commitment loss and of the codebook loss:

        grad_z = g_q + 2 g_c / (N D) (z - e)
        grad_codebook[k] = 2 g_e / (N D) (count_k e_k - sum of the latents of k)

    They are deterministic, can be taken once (not twice), and never hold an N x K or N x D
    intermediate beyond z_q.

    Args:
        z: latents (..., N, D), float16, bfloat16, float32 or float64, with any strides: images
            (B, D, H, W) are passed as `z.movedim(1, -1)` and read in place.
        codebook: (K, D); or (..., K, D) with the leading sizes of z, a codebook for each head.
        precision: "exact" or "fast", as in `nearest_code`.

    Returns:
        z_q: shape, type and memory layout of z, so that `z_q.movedim(-1, 1)` is contiguous if the
            images were. Its value is z + (e - z) in floating point, which may differ from e in
            the last bit, as in the reference implementation.
        indices: (..., N) int64.
        commitment_loss, codebook_loss: scalars, float32 (float64 if an input is), in squared units
            of z; NaN if a latent is not finite or there is none.

    Raises:
        TypeError: an argument is no tensor.
        ValueError: precision is unknown.
        RuntimeError: sizes, types or devices do not fit; K or D is 0.
    """
    if not (isinstance(z, Tensor) and isinstance(codebook, Tensor)):
        check_tensors(z=z, codebook=codebook)
    refuse_forward_mode("vector_quantize", z, codebook)
    return torch.ops.vqgan_fast.vector_quantize(z, codebook, is_exact(precision))


register_fallback(_OP, reference.vector_quantize)
register_fallback(_BACKWARD_OP, reference.vector_quantize_backward)


@torch.library.register_fake(_OP)
def _fake(z: Tensor, codebook: Tensor, exact: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    check_search(z, codebook)
    losses = [z.new_empty((), dtype=accumulation_type(z, codebook)) for _ in range(2)]
    return torch.empty_like(z), z.new_empty(z.shape[:-1], dtype=torch.int64), *losses


@torch.library.register_fake(_BACKWARD_OP)
def _fake_backward(
    grad_z_q: Tensor | None,
    grad_commitment: Tensor,
    grad_codebook_loss: Tensor,
    z: Tensor,
    codebook: Tensor,
    indices: Tensor,
    need_grad_z: bool,
    need_grad_codebook: bool,
) -> tuple[Tensor, Tensor]:
    check_search(z, codebook)
    check_stats(z, indices, codebook.shape[-2])
    grad_z = torch.empty_like(z) if need_grad_z else z.new_empty(0)
    return grad_z, torch.empty_like(codebook) if need_grad_codebook else codebook.new_empty(0)


def _setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    z, codebook, _ = inputs
    ctx.save_for_backward(z, codebook, output[1])
    ctx.set_materialize_grads(False)


def _backward(
    ctx: Any,
    grad_z_q: Tensor | None,
    _: None,
    grad_commitment: Tensor | None,
    grad_codebook_loss: Tensor | None,
) -> tuple:
    z, codebook, indices = ctx.saved_tensors
    # Without the commitment loss the gradient of z_q is that of z, straight through.
    need_grad_z = ctx.needs_input_grad[0] and grad_commitment is not None
    need_grad_codebook = ctx.needs_input_grad[1] and grad_codebook_loss is not None
    if not need_grad_z and not need_grad_codebook:
        return grad_z_q, None, None
    zero = z.new_zeros((), dtype=accumulation_type(z, codebook))
    grad_z, grad_codebook = torch.ops.vqgan_fast.vector_quantize_backward(
        grad_z_q,
        zero if grad_commitment is None else grad_commitment,
        zero if grad_codebook_loss is None else grad_codebook_loss,
        z,
        codebook,
        indices,
        need_grad_z,
        need_grad_codebook,
    )
    return (
        grad_z if need_grad_z else grad_z_q,
        grad_codebook if need_grad_codebook else None,
        None,
    )


def _no_second_backward(ctx: Any, *grads: Tensor | None) -> tuple:
    raise RuntimeError("vector_quantize can be differentiated once, not twice")


torch.library.register_autograd(_OP, _backward, setup_context=_setup_context)
torch.library.register_autograd(_BACKWARD_OP, _no_second_backward)
