"""Plain-torch definitions of the ops: what the kernels compute, and what runs where there is none.

One module for each family of ops; this one gathers their names.
"""

from __future__ import annotations

from .codebook import (
    codebook_stats,
    lookup,
    nearest_code,
    sum_by_code,
    vector_quantize,
    vector_quantize_backward,
    wide_type,
)
from .decode import (
    decode_grid_layers,
    decode_layers,
    grid_attention,
    layer_norm,
    packed_linear,
    rotate_heads,
    window_attention,
)
from .sample_logits import sample_logits
from .soft_assign import soft_assign, soft_assign_backward

__all__ = [
    "codebook_stats",
    "decode_grid_layers",
    "decode_layers",
    "grid_attention",
    "layer_norm",
    "lookup",
    "nearest_code",
    "packed_linear",
    "rotate_heads",
    "sample_logits",
    "soft_assign",
    "soft_assign_backward",
    "sum_by_code",
    "vector_quantize",
    "vector_quantize_backward",
    "wide_type",
    "window_attention",
]
