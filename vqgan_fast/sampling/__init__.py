"""Sampling codes and images with a trained transformer."""

from .images import sample
from .sampler import sample_codes

__all__ = ["sample", "sample_codes"]
