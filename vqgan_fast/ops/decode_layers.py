"""All layers of a transformer for a few rows, in one call."""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference
from .decode_checks import check_layers
from .packed_layers import PackedLayers, check_packed_layers
from .registration import register_fallback, require_tensors


@torch.no_grad()
def decode_layers(
    x: Tensor,
    layers: PackedLayers,
    k_cache: Tensor,
    v_cache: Tensor,
    slots: Tensor,
    positions: Tensor,
    ends: Tensor,
) -> Tensor:
    """Runs rows of a ragged batch through all layers of a pre-LN transformer with a cache.

    Each layer is x = x + proj(attention(qkv(ln1(x)))), x = x + out(gelu(fc(ln2(x)))), with
    :func:`vqgan_fast.ops.window_attention` as the attention: the blocks of the reference's GPT
    (Esser, Rombach and Ommer, 2021), without dropout. Embeddings come before, ln_f and the head
    after it. The same bits as the single ops, and so batch-invariant.

    Args:
        x: (R, C) float32, the embedded tokens.
        layers: from :func:`vqgan_fast.ops.pack_layers`.
        k_cache, v_cache: (layers, S, H, L, Dh) float32 or bfloat16, contiguous, with H Dh = C;
            changed in place.
        slots, positions, ends: (R,) int64, as in `window_attention`.

    Returns:
        (R, C) float32, without gradients.

    Raises:
        TypeError: layers are not packed, or an argument is no tensor.
        RuntimeError: sizes, types or devices do not fit; on the CPU also an integer out of range.
    """
    check_packed_layers(layers)
    require_tensors(x=x, k_cache=k_cache, v_cache=v_cache)
    require_tensors(slots=slots, positions=positions, ends=ends)
    weights, scales = layers.tensors()
    return torch.ops.vqgan_fast.decode_layers(
        x, weights, scales, layers.eps, k_cache, v_cache, slots, positions, ends
    )


@torch.no_grad()
def decode_grid_layers(
    x: Tensor,
    layers: PackedLayers,
    k_cache: Tensor,
    v_cache: Tensor,
    slots: Tensor,
    rows: Tensor,
    columns: Tensor,
    cos: Tensor,
    sin: Tensor,
    width: int,
    up: int = 8,
    left: int = 8,
    right: int = 7,
) -> Tensor:
    """:func:`decode_layers` with rotary positions and :func:`vqgan_fast.ops.grid_attention`.

    Queries and keys are rotated before they are used or stored: elements d and d + Dh / 2 of each
    head, as the plane (a, b), become (a cos - b sin, b cos + a sin), with the angle of row r and
    plane d in cos[r, d] and sin[r, d]. What angles a cell has is the caller's affair.

    Args:
        x: (R, C) float32.
        layers: from :func:`vqgan_fast.ops.pack_layers`.
        k_cache, v_cache: (layers, S, H, ring_rows, W, Dh), as in `grid_attention`.
        slots, rows, columns, width, up, left, right: as in `grid_attention`.
        cos, sin: (R, Dh / 2) float32.

    Returns:
        (R, C) float32, without gradients.

    Raises:
        TypeError: layers are not packed, or an argument is no tensor.
        RuntimeError: sizes, types or devices do not fit; on the CPU also an integer out of range.
    """
    check_packed_layers(layers)
    require_tensors(x=x, k_cache=k_cache, v_cache=v_cache)
    require_tensors(slots=slots, rows=rows, columns=columns, cos=cos, sin=sin)
    weights, scales = layers.tensors()
    caches = (k_cache, v_cache)
    return torch.ops.vqgan_fast.decode_grid_layers(
        *(x, weights, scales, layers.eps, *caches, slots, rows, columns, cos, sin),
        *(width, up, left, right),
    )


register_fallback("vqgan_fast::decode_layers", reference.decode_layers)
register_fallback("vqgan_fast::decode_grid_layers", reference.decode_grid_layers)


@torch.library.register_fake("vqgan_fast::decode_layers")
def _fake(x: Tensor, weights: list, scales: list, eps: float, k_cache, v_cache, *cells) -> Tensor:
    check_layers(x, weights, scales, k_cache, v_cache)
    return x.new_empty(x.shape)


@torch.library.register_fake("vqgan_fast::decode_grid_layers")
def _fake_grid(
    x: Tensor, weights: list, scales: list, eps: float, k_cache, v_cache, *cells
) -> Tensor:
    check_layers(x, weights, scales, k_cache, v_cache)
    return x.new_empty(x.shape)
