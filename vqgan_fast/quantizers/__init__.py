"""Quantisers, which replace each latent by its nearest code, and what keeps a codebook in use."""

from .dead_codes import restart_dead_codes
from .metrics import perplexity, usage
from .vector_quantizer import QuantizerInfo, VectorQuantizer

__all__ = ["QuantizerInfo", "VectorQuantizer", "perplexity", "restart_dead_codes", "usage"]
