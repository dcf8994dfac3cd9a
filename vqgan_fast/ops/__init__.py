"""The operators: nearest code, quantisation, and per-code statistics, on tensors of any device.

Each has C++ kernels (`csrc/`), a plain-torch definition (`reference`), autograd and fake kernels.
`docs/numerics.md` says what exactly they compute.
"""

from __future__ import annotations

from .codebook_stats import codebook_stats
from .nearest_code import nearest_code, nearest_code_counters
from .soft_assign import SoftAssignment, soft_assign
from .vector_quantize import vector_quantize

__all__ = [
    "SoftAssignment",
    "codebook_stats",
    "nearest_code",
    "nearest_code_counters",
    "soft_assign",
    "vector_quantize",
]
