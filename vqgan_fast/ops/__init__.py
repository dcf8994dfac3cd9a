"""The operators: nearest code, quantisation, per-code statistics, and the steps of a
sampler, on tensors of any device.

Each has C++ kernels (`csrc/`), a plain-torch definition (`reference`), autograd and fake kernels.
`docs/numerics.md` says what exactly they compute.
"""

from __future__ import annotations

from .codebook_stats import codebook_stats
from .decode_layers import decode_grid_layers, decode_layers
from .grid_attention import grid_attention
from .layer_norm import layer_norm
from .nearest_code import nearest_code, nearest_code_counters
from .packed_layers import PackedLayers, pack_layers
from .packed_linear import packed_linear
from .packed_weight import PackedWeight, pack_linear, unpack_linear
from .sample_logits import sample_logits
from .soft_assign import SoftAssignment, soft_assign
from .vector_quantize import vector_quantize
from .window_attention import window_attention

__all__ = [
    "PackedLayers",
    "PackedWeight",
    "SoftAssignment",
    "codebook_stats",
    "decode_grid_layers",
    "decode_layers",
    "grid_attention",
    "layer_norm",
    "nearest_code",
    "nearest_code_counters",
    "pack_layers",
    "pack_linear",
    "packed_linear",
    "sample_logits",
    "soft_assign",
    "unpack_linear",
    "vector_quantize",
    "window_attention",
]


def __dir__() -> list[str]:
    return list(__all__)
