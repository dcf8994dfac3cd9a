"""Quantisers, which replace each latent by its nearest code, and what keeps a codebook in use."""

from .dead_codes import restart_dead_codes
from .entropy import entropy_loss, entropy_terms
from .gumbel import GumbelQuantizer
from .index_propagation import IndexPropagationQuantizer
from .metrics import perplexity, usage
from .vector_quantizer import QuantizerInfo, VectorQuantizer

__all__ = [
    "GumbelQuantizer",
    "IndexPropagationQuantizer",
    "QuantizerInfo",
    "VectorQuantizer",
    "entropy_loss",
    "entropy_terms",
    "perplexity",
    "restart_dead_codes",
    "usage",
]
