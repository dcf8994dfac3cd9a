"""Attention of single rows to a cache of keys and values that they are appended to."""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference
from .decode_checks import check_cache, check_heads, check_integers
from .registration import check_tensors, register_fallback, require_tensors

_OP = "vqgan_fast::window_attention"


@torch.no_grad()
def window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    slots: Tensor,
    positions: Tensor,
    ends: Tensor,
) -> Tensor:
    """Writes each row's key and value, then attends the first `ends` entries of its slot.

        k_cache[slots[r], :, positions[r]] = k[r], and v alike, for every row r; then
        y[r, h] = softmax(q[r, h] K^T / sqrt(Dh)) V,  K, V = cache[slots[r], h, :ends[r]]

    Rows of one call may belong to any slots and positions (a ragged batch): a prefill is many rows
    of one slot, a decode step one row of each. All rows are written before any attends. A causal
    row has ends = position + 1; rows of a prefix that sees all of itself have its length.

    Args:
        q, k, v: (R, H, Dh) float32, Dh a multiple of 8.
        k_cache, v_cache: (S, H, L, Dh) float32 or bfloat16 (rounded to nearest even when written),
            contiguous; changed in place.
        slots: (R,) int64 in [0, S). No two rows may have the same slot and position.
        positions: (R,) int64 in [0, L).
        ends: (R,) int64 in [1, L]; all entries before it must have been written.

    Returns:
        y (R, H, Dh) float32: batch-invariant, without gradients.

    Raises:
        TypeError: an argument is no tensor.
        RuntimeError: sizes, types or devices do not fit; on the CPU also an integer out of range
            (a cache too short). CUDA kernels do not write and return NaN for such a row.
    """
    check_tensors(q=q, k=k, v=v)
    require_tensors(k_cache=k_cache, v_cache=v_cache, slots=slots, positions=positions, ends=ends)
    return torch.ops.vqgan_fast.window_attention(q, k, v, k_cache, v_cache, slots, positions, ends)


register_fallback(_OP, reference.window_attention)


@torch.library.register_fake(_OP)
def _fake(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    slots: Tensor,
    positions: Tensor,
    ends: Tensor,
) -> Tensor:
    check_heads(q, k, v)
    check_cache(k_cache, v_cache, "(S, H, L, Dh)", (None, q.shape[1], None, q.shape[2]))
    for name, tensor in (("slots", slots), ("positions", positions), ("ends", ends)):
        check_integers(tensor, name, q.shape[0])
    return q.new_empty(q.shape)
