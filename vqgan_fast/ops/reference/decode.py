"""Plain-torch definitions of the ops of a decode step.

They say what the kernels compute up to the order of sums, which torch chooses for itself and the
kernels fix: `docs/decode_numerics.md`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ..decode_checks import (
    check_cache,
    check_heads,
    check_integers,
    check_layer_norm,
    check_layers,
    check_packed_linear,
    check_range,
    check_ring,
    check_rows,
)
from ..packed_weight import PackedWeight, unpack_linear


def packed_linear(
    x: Tensor,
    weight: Tensor,
    scales: Tensor | None,
    bias: Tensor | None,
    out_features: int,
    gelu: bool,
) -> Tensor:
    """The `packed_linear` op."""
    check_packed_linear(x, weight, scales, bias, out_features)
    y = F.linear(x, unpack_linear(PackedWeight(weight, scales, out_features)), bias)
    return F.gelu(y) if gelu else y


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """The `layer_norm` op."""
    check_layer_norm(x, weight, bias, eps)
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


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
    """The `window_attention` op."""
    check_heads(q, k, v)
    num_rows, num_heads, head_dim = q.shape
    sizes = (None, num_heads, None, head_dim)
    check_cache(k_cache, v_cache, f"(S, H, L, Dh) = (S, {num_heads}, L, {head_dim})", sizes)
    length = k_cache.shape[2]
    for name, tensor in (("slots", slots), ("positions", positions), ("ends", ends)):
        check_integers(tensor, name, num_rows)
    check_range(slots, "slots", 0, k_cache.shape[0])
    check_range(positions, "positions", 0, length)
    check_range(ends, "ends", 1, length + 1)
    for cache, rows in ((k_cache, k), (v_cache, v)):
        cache[slots, :, positions] = rows.to(cache.dtype)
    visible = torch.arange(length, device=q.device) < ends[:, None]
    return _attend_by_slot(q, k_cache, v_cache, slots, visible)


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
    up: int,
    left: int,
    right: int,
) -> Tensor:
    """The `grid_attention` op."""
    check_heads(q, k, v)
    num_rows, num_heads, head_dim = q.shape
    sizes = (None, num_heads, None, None, head_dim)
    check_cache(k_cache, v_cache, "(S, H, ring_rows, W, Dh)", sizes)
    ring_rows, cache_columns = k_cache.shape[2:4]
    check_ring(ring_rows, cache_columns, width, up, left, right)
    for name, tensor in (("slots", slots), ("rows", rows), ("columns", columns)):
        check_integers(tensor, name, num_rows)
    check_range(slots, "slots", 0, k_cache.shape[0])
    check_range(rows, "rows", 0, 2**31)
    check_range(columns, "columns", 0, width)
    for cache, values in ((k_cache, k), (v_cache, v)):
        cache[slots, :, rows % ring_rows, columns] = values.to(cache.dtype)
    ring = torch.arange(ring_rows, device=q.device)
    column = torch.arange(cache_columns, device=q.device)
    above = (rows[:, None] - ring) % ring_rows  # how far the row that a ring row holds is above
    distance = column - columns[:, None]
    own = (above == 0)[:, :, None] & (distance <= 0)[:, None]
    higher = ((above >= 1) & (above <= up) & (above <= rows[:, None]))[:, :, None]
    visible = own | (higher & (distance <= right)[:, None])
    visible &= ((distance >= -left) & (column < width))[:, None]
    caches = (k_cache.flatten(2, 3), v_cache.flatten(2, 3))
    return _attend_by_slot(q, *caches, slots, visible.flatten(1))


def _attend_by_slot(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor, visible: Tensor
) -> Tensor:
    """softmax(q k^T / sqrt(Dh)) v over the `visible` (R, E) entries of each row's slot.

    q is (R, H, Dh), the caches are (S, H, E, Dh); the result is like q.
    """
    out = torch.empty_like(q)
    for slot in slots.unique().tolist():
        rows = (slots == slot).nonzero().flatten()
        scores = q[rows].transpose(0, 1) @ k_cache[slot].float().transpose(1, 2)
        scores = (scores / math.sqrt(q.shape[-1])).masked_fill(~visible[rows], -math.inf)
        # What is not visible may never have been written: 0 times it need not be 0.
        values = v_cache[slot].float().masked_fill(~visible[rows].any(0)[:, None], 0.0)
        out[rows] = (scores.softmax(-1) @ values).transpose(0, 1)
    return out


def decode_layers(
    x: Tensor,
    weights: list[Tensor],
    scales: list[Tensor],
    eps: float,
    k_cache: Tensor,
    v_cache: Tensor,
    slots: Tensor,
    positions: Tensor,
    ends: Tensor,
) -> Tensor:
    """The `decode_layers` op."""
    check_layers(x, weights, scales, k_cache, v_cache)

    def attend(q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        return window_attention(q, k, v, k_cache[layer], v_cache[layer], slots, positions, ends)

    return _layers(x, weights, scales, eps, k_cache, attend)


def decode_grid_layers(
    x: Tensor,
    weights: list[Tensor],
    scales: list[Tensor],
    eps: float,
    k_cache: Tensor,
    v_cache: Tensor,
    slots: Tensor,
    rows: Tensor,
    columns: Tensor,
    cos: Tensor,
    sin: Tensor,
    width: int,
    up: int,
    left: int,
    right: int,
) -> Tensor:
    """The `decode_grid_layers` op."""
    check_layers(x, weights, scales, k_cache, v_cache)
    half = k_cache.shape[-1] // 2
    for name, table in (("cos", cos), ("sin", sin)):
        check_rows(table, name, f"(R, Dh / 2) = ({x.shape[0]}, {half})", (x.shape[0], half))

    def attend(q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        q, k = rotate_heads(q, cos, sin), rotate_heads(k, cos, sin)
        caches = (k_cache[layer], v_cache[layer])
        return grid_attention(q, k, v, *caches, slots, rows, columns, width, up, left, right)

    return _layers(x, weights, scales, eps, k_cache, attend)


def rotate_heads(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates the plane of elements (d, d + Dh / 2) of each head (..., H, Dh) by its angle.

    cos and sin are (..., Dh / 2), the same for all heads.
    """
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos[..., None, :], sin[..., None, :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _layers(x, weights, scales, eps, k_cache, attend):
    linears = (2, 4, 8, 10)  # where the weights of qkv, proj, fc and out stand; their bias is next

    def linear(x: Tensor, which: int, layer: int, gelu: bool = False) -> Tensor:
        weight, bias = weights[linears[which]][layer], weights[linears[which] + 1][layer]
        scale = scales[which][layer] if scales else None
        return packed_linear(x, weight, scale, bias, bias.shape[0], gelu)

    def norm(x: Tensor, which: int, layer: int) -> Tensor:
        return layer_norm(x, weights[which][layer], weights[which + 1][layer], eps)

    num_layers, _, num_heads = k_cache.shape[:3]
    for layer in range(num_layers):
        heads = linear(norm(x, 0, layer), 0, layer).unflatten(-1, (3, num_heads, -1))
        y = attend(*(part.contiguous() for part in heads.unbind(1)), layer)
        x = x + linear(y.flatten(1), 1, layer)
        x = x + linear(linear(norm(x, 6, layer), 2, layer, gelu=True), 3, layer)
    return x
