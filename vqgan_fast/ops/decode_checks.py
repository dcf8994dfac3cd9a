"""What the ops of a decode step ask of their arguments; `csrc/ops/decode_checks.h` in Python.

Shapes and types are for the fake kernels and for devices without a kernel; ranges, which need the
values, for the latter alone. What does not fit is a RuntimeError, as in C++.
"""

from __future__ import annotations

import math
from numbers import Integral, Real

import torch
from torch import Tensor

from .packed_weight import PANEL, WEIGHT_TYPES

CACHE_TYPES = (torch.float32, torch.bfloat16)
MOST_CODES = 2**22  # whose probabilities, multiples of 2^-40, have a sum in int64


def check_rows(tensor: Tensor, name: str, shape: str, sizes: tuple[int | None, ...]) -> None:
    """A float32 tensor of `sizes` (None: any), which the message calls `shape`."""
    fits = tensor.dim() == len(sizes) and all(
        size in (None, found) for size, found in zip(sizes, tensor.shape, strict=True)
    )
    if not fits or tensor.dtype != torch.float32:
        raise RuntimeError(
            f"{name} must be {shape} float32, got {tuple(tensor.shape)} of {tensor.dtype}"
        )


def check_integers(tensor: Tensor, name: str, rows: int) -> None:
    """An int64 for each of `rows` rows."""
    if tensor.dtype != torch.int64 or tuple(tensor.shape) != (rows,):
        raise RuntimeError(
            f"{name} must be int64, one for each of the {rows} rows, got {tuple(tensor.shape)} of "
            f"{tensor.dtype}"
        )


def check_range(tensor: Tensor, name: str, low: int, high: int | Tensor) -> None:
    """Every integer in [low, high)."""
    bad = ((tensor < low) | (tensor >= high)).nonzero().flatten()
    if bad.numel() > 0:
        row = int(bad[0])
        bound = int(high[row]) if isinstance(high, Tensor) else high
        raise RuntimeError(
            f"{name} must lie in [{low}, {bound}), got {int(tensor[row])} for row {row}"
        )


def check_packed_linear(
    x: Tensor, weight: Tensor, scales: Tensor | None, bias: Tensor | None, out_features: int
) -> None:
    """x (R, K) against what `pack_linear` made of (out_features, K), and bias (out_features,)."""
    if weight.dim() != 3 or weight.shape[2] != PANEL or weight.dtype not in WEIGHT_TYPES.values():
        raise RuntimeError(
            f"weight must be packed by pack_linear, (panels, K, {PANEL}) of float32, bfloat16 or "
            f"int8, got {tuple(weight.shape)} of {weight.dtype}"
        )
    check_rows(x, "x", f"(R, K) with K = {weight.shape[1]}", (None, weight.shape[1]))
    if weight.shape[0] != -(-out_features // PANEL) or out_features < 1:
        raise RuntimeError(
            f"out_features must fill the {weight.shape[0]} panels of weight, got {out_features}"
        )
    if (scales is not None) != (weight.dtype == torch.int8):
        raise RuntimeError("scales must come with int8 weights, and with no others")
    for name, tensor in (("scales", scales), ("bias", bias)):
        if tensor is not None:
            check_rows(tensor, name, f"(N,) with N = {out_features}", (out_features,))


def check_layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> None:
    """x (R, C), weight and bias (C,), all float32; eps not negative."""
    check_rows(x, "x", "(R, C) with C >= 1", (None, None))
    if x.shape[1] < 1:
        raise RuntimeError(f"x must be (R, C) with C >= 1, got {tuple(x.shape)}")
    for name, tensor in (("weight", weight), ("bias", bias)):
        check_rows(tensor, name, f"(C,) with C = {x.shape[1]}", (x.shape[1],))
    if not eps >= 0:
        raise RuntimeError(f"eps must be >= 0, got {eps}")


def check_heads(q: Tensor, k: Tensor, v: Tensor) -> None:
    """q, k and v (R, H, Dh) float32, of one shape, with Dh a multiple of 8."""
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        check_rows(tensor, name, "(R, H, Dh)", (None, None, None))
        if tensor.shape != q.shape:
            raise RuntimeError(
                f"{name} must have the shape of q {tuple(q.shape)}, got {tuple(tensor.shape)}"
            )
    if q.shape[2] < 8 or q.shape[2] % 8 or q.shape[1] < 1:
        raise RuntimeError(f"q must be (R, H, Dh) with Dh a multiple of 8, got {tuple(q.shape)}")


def check_cache(
    k_cache: Tensor, v_cache: Tensor, shape: str, sizes: tuple[int | None, ...]
) -> None:
    """Two contiguous caches of one shape and dtype, of `sizes` (None: any), in messages `shape`."""
    for name, cache in (("k_cache", k_cache), ("v_cache", v_cache)):
        fits = cache.dim() == len(sizes) and all(
            size in (None, found) for size, found in zip(sizes, cache.shape, strict=True)
        )
        if not fits or cache.dtype not in CACHE_TYPES or not cache.is_contiguous():
            raise RuntimeError(
                f"{name} must be contiguous {shape}, float32 or bfloat16, got "
                f"{tuple(cache.shape)} of {cache.dtype} with strides {cache.stride()}"
            )
    if v_cache.shape != k_cache.shape or v_cache.dtype != k_cache.dtype:
        raise RuntimeError(
            f"v_cache must be like k_cache, {tuple(k_cache.shape)} of {k_cache.dtype}, got "
            f"{tuple(v_cache.shape)} of {v_cache.dtype}"
        )


def check_ring(ring_rows: int, columns: int, width: int, up: int, left: int, right: int) -> None:
    """A cache of ring_rows x columns cells has room for a window on a grid `width` cells wide."""
    if min(up, left, right) < 0:
        raise RuntimeError(f"up, left and right must be >= 0, got {up}, {left} and {right}")
    if ring_rows <= up:
        raise RuntimeError(
            f"k_cache must have more than up = {up} ring rows for each head, got {ring_rows}"
        )
    if not 1 <= width <= columns:
        raise RuntimeError(f"width must lie in [1, {columns}], the cache's columns, got {width}")


def check_layers(
    x: Tensor, weights: list[Tensor], scales: list[Tensor], k_cache: Tensor, v_cache: Tensor
) -> None:
    """The stacked weights of `PackedLayers.tensors`, against x (R, C) and caches (L, S, H, ...)."""
    if len(weights) != 12 or len(scales) not in (0, 4):
        raise RuntimeError("weights must be packed by pack_layers")
    check_rows(x, "x", "(R, C)", (None, None))
    for name, cache in (("k_cache", k_cache), ("v_cache", v_cache)):
        if cache.dim() < 5 or cache.shape[0] != weights[0].shape[0]:
            raise RuntimeError(
                f"{name} must be (L, S, H, ..., Dh) with L = {weights[0].shape[0]} layers, got "
                f"{tuple(cache.shape)}"
            )
    width = k_cache.shape[2] * k_cache.shape[-1]
    if x.shape[1] != width or weights[0].shape[1] != width:
        raise RuntimeError(
            f"x must be (R, C) with C = {weights[0].shape[1]} as the layers have it and H * Dh = "
            f"{width} as the caches have it, got {tuple(x.shape)}"
        )


def check_draw(temperature: object, top_k: object, top_p: object, min_p: object) -> None:
    """ValueError if an option of `sample_logits` is out of its range."""
    if not (_is_finite(temperature) and temperature >= 0):
        raise ValueError(f"temperature must be a finite number >= 0, got {temperature!r}")
    is_integer = isinstance(top_k, Integral) and not isinstance(top_k, bool)
    if top_k is not None and not (is_integer and top_k >= 1):
        raise ValueError(f"top_k must be an integer >= 1 or None, got {top_k!r}")
    for name, share in (("top_p", top_p), ("min_p", min_p)):
        if share is not None and not (_is_finite(share) and 0 < share <= 1):
            raise ValueError(f"{name} must be in (0, 1] or None, got {share!r}")


def check_guidance(guidance: object) -> None:
    """ValueError if it is no finite number."""
    if not _is_finite(guidance):
        raise ValueError(f"guidance must be a finite number, got {guidance!r}")


def _is_finite(value: object) -> bool:
    """Whether it is a finite number, Python's or numpy's."""
    # Compared and not asked by math.isfinite, which torch.compile cannot trace.
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    return is_number and -math.inf < value < math.inf


def check_codes(logits: Tensor) -> None:
    """logits (B, V) float32, V in [1, MOST_CODES]."""
    check_rows(logits, "logits", "(B, V)", (None, None))
    if logits.shape[1] < 1:
        raise RuntimeError(f"logits must be (B, V) with V >= 1, got {tuple(logits.shape)}")
    if logits.shape[1] > MOST_CODES:
        raise RuntimeError(
            f"logits must be (B, V) with V at most {MOST_CODES}, got {tuple(logits.shape)}"
        )


def check_forbidden(forbidden: Tensor, logits: Tensor) -> None:
    """forbidden (V,) or (B, V) bool, on the device of logits (B, V)."""
    shapes = (logits.shape[1:], logits.shape)
    if forbidden.dtype != torch.bool or forbidden.shape not in shapes:
        raise RuntimeError(
            f"forbidden must be bool, (V,) or (B, V) like logits {tuple(logits.shape)}, got "
            f"{tuple(forbidden.shape)} of {forbidden.dtype}"
        )
    if forbidden.device != logits.device:
        raise RuntimeError(
            f"forbidden must be on {logits.device} like logits, got {forbidden.device}"
        )


def check_logits(
    logits: Tensor, seeds: Tensor, cells: Tensor, uncond_logits: Tensor | None, top_k: int
) -> None:
    """logits (B, V), and uncond_logits alike; seeds and cells (B,) int64; top_k at most V."""
    check_codes(logits)
    check_integers(seeds, "seeds", logits.shape[0])
    check_integers(cells, "cells", logits.shape[0])
    if uncond_logits is not None:
        check_rows(uncond_logits, "uncond_logits", "like logits,", tuple(logits.shape))
    if top_k > logits.shape[1]:
        raise RuntimeError(f"top_k must be at most the {logits.shape[1]} codes, got {top_k}")
