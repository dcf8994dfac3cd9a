"""Attention of cells of a grid to a window around them, in a ring of the grid's last rows."""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference
from .decode_checks import check_cache, check_heads, check_integers, check_ring
from .registration import check_tensors, register_fallback, require_tensors

_OP = "vqgan_fast::grid_attention"


@torch.no_grad()
def grid_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    slots: Tensor,
    rows: Tensor,
    columns: Tensor,
    width: int,
    up: int = 8,
    left: int = 8,
    right: int = 7,
) -> Tensor:
    """Writes each cell's key and value into a ring of rows, then attends the cell's window.

    Row r of the call is the cell (i, j) = (rows[r], columns[r]) of slot slots[r]. Its key and value
    go to [slot, :, i mod ring_rows, j]; after all writes it attends, in raster order,

        rows i - up ... i - 1 in columns j - left ... j + right, and row i in columns j - left ... j

    clipped to the grid (rows >= 0, columns in [0, width)), with softmax(q K^T / sqrt(Dh)) V. The
    ring must hold all of these cells once the call has written: with cells visited in a wavefront
    of skew `right` + 1, up + 2 ring rows are enough for a grid of any size.

    Args:
        q, k, v: (R, H, Dh) float32, Dh a multiple of 8.
        k_cache, v_cache: (S, H, ring_rows, W, Dh) float32 or bfloat16, contiguous; changed in
            place.
        slots, rows, columns: (R,) int64 in [0, S), [0, 2^31) and [0, width). No two rows may have
            the same slot, ring row and column.
        width: of the grid, at most W.
        up, left, right: the window; ring_rows > up.

    Returns:
        y (R, H, Dh) float32: batch-invariant, without gradients.

    Raises:
        TypeError: an argument is no tensor.
        RuntimeError: sizes, types or devices do not fit; on the CPU also an integer out of range.
            CUDA kernels do not write and return NaN for such a row.
    """
    check_tensors(q=q, k=k, v=v)
    require_tensors(k_cache=k_cache, v_cache=v_cache, slots=slots, rows=rows, columns=columns)
    return torch.ops.vqgan_fast.grid_attention(
        q, k, v, k_cache, v_cache, slots, rows, columns, width, up, left, right
    )


register_fallback(_OP, reference.grid_attention)


@torch.library.register_fake(_OP)
def _fake(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    slots: Tensor,
    rows: Tensor,
    columns: Tensor,
    width: int,
    up: int,
    left: int,
    right: int,
) -> Tensor:
    check_heads(q, k, v)
    sizes = (None, q.shape[1], None, None, q.shape[2])
    check_cache(k_cache, v_cache, "(S, H, ring_rows, W, Dh)", sizes)
    check_ring(k_cache.shape[2], k_cache.shape[3], width, up, left, right)
    for name, tensor in (("slots", slots), ("rows", rows), ("columns", columns)):
        check_integers(tensor, name, q.shape[0])
    return q.new_empty(q.shape)
