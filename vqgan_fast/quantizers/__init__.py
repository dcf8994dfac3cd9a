"""Quantisers, which replace each latent by its nearest code, and what keeps a codebook in use."""

from .base import CodebookQuantizer, Quantizer, QuantizerInfo
from .build import QUANTIZERS, build_quantizer
from .cosine import CosineVectorQuantizer
from .dead_codes import restart_dead_codes
from .entropy import entropy_loss, entropy_terms
from .gumbel import GumbelQuantizer
from .hierarchical import HierarchicalQuantizer
from .index_propagation import IndexPropagationQuantizer
from .k_means import k_means
from .metrics import perplexity, usage
from .moving_average import EMAVectorQuantizer
from .residual import ResidualQuantizer
from .sim_vq import SimVQ
from .vector_quantizer import VectorQuantizer

__all__ = [
    "QUANTIZERS",
    "CodebookQuantizer",
    "CosineVectorQuantizer",
    "EMAVectorQuantizer",
    "GumbelQuantizer",
    "HierarchicalQuantizer",
    "IndexPropagationQuantizer",
    "Quantizer",
    "QuantizerInfo",
    "ResidualQuantizer",
    "SimVQ",
    "VectorQuantizer",
    "build_quantizer",
    "entropy_loss",
    "entropy_terms",
    "k_means",
    "perplexity",
    "restart_dead_codes",
    "usage",
]
