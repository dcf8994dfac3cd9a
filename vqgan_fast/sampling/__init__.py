"""Sampling codes and images with a trained transformer."""

from .images import sample
from .interrupted import SamplingInterrupted
from .packed import PackedTransformer, pack
from .sampler import sample_codes

__all__ = ["PackedTransformer", "SamplingInterrupted", "pack", "sample", "sample_codes"]
