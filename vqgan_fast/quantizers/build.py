"""A quantiser by its name in a configuration."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from .base import CodebookQuantizer
from .cosine import CosineVectorQuantizer
from .gumbel import GumbelQuantizer
from .hierarchical import HierarchicalQuantizer
from .index_propagation import IndexPropagationQuantizer
from .moving_average import EMAVectorQuantizer
from .residual import ResidualQuantizer
from .sim_vq import SimVQ
from .vector_quantizer import VectorQuantizer

QUANTIZERS: dict[str, type[CodebookQuantizer]] = {
    "vector": VectorQuantizer,
    "ema": EMAVectorQuantizer,
    "residual": ResidualQuantizer,
    "hierarchical": HierarchicalQuantizer,
    "cosine": CosineVectorQuantizer,
    "simvq": SimVQ,
    "index_propagation": IndexPropagationQuantizer,
    "gumbel": GumbelQuantizer,
}


def build_quantizer(
    name: str,
    codebook_size: int,
    e_dim: int,
    beta: float,
    legacy: bool,
    options: Mapping[str, Any] | None = None,
) -> CodebookQuantizer:
    """The quantiser called `name`, with its own further arguments in `options`.

    Raises:
        ValueError: an unknown name or option, or an argument that cannot work, named.
    """
    if name not in QUANTIZERS:
        raise ValueError(f"quantizer must be one of {', '.join(QUANTIZERS)}, got {name!r}")
    shared = {"codebook_size": codebook_size, "e_dim": e_dim, "beta": beta, "legacy": legacy}
    parameters = inspect.signature(QUANTIZERS[name]).parameters
    known = [key for key in parameters if key not in shared]
    for key in options or {}:
        if key not in known:
            expected = f"must be among {', '.join(known)}" if known else "must be empty"
            raise ValueError(f"quantizer_options {expected} for {name}, got {key!r}")
    # A quantiser without a commitment loss takes neither beta nor legacy.
    taken = {key: value for key, value in shared.items() if key in parameters}
    return QUANTIZERS[name](**taken, **(options or {}))
