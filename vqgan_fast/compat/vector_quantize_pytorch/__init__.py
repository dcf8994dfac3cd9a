"""Drop-in replacements for the quantisers of vector-quantize-pytorch.

    from vqgan_fast.compat.vector_quantize_pytorch import ResidualVQ, SimVQ, VectorQuantize

Arguments, results, state-dict keys, gradients and updates are those of the package; the search is
exact and holds no N x K matrix. An option that is not covered raises NotImplementedError naming it.
`SWAPS` replaces modules of the package that exist already.
"""

from __future__ import annotations

from .grouped_residual_vq import GroupedResidualVQ
from .residual_vq import ResidualVQ
from .sim_vq import SimVQ
from .swaps import SWAPS
from .vector_quantize import VectorQuantize

__all__ = ["SWAPS", "GroupedResidualVQ", "ResidualVQ", "SimVQ", "VectorQuantize"]
