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
)

__all__ = [
    "codebook_stats",
    "lookup",
    "nearest_code",
    "sum_by_code",
    "vector_quantize",
    "vector_quantize_backward",
]
