"""Train VQGANs, quantise exactly and fast, and sample pictures larger than the training crop.

Names load on first use: `import vqgan_fast` alone, or `vqgan_fast.numpy`, never imports torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# Where each public name lives; a name that equals its module's is the module itself.
_HOME = {
    "VQGAN": "models",
    "GPT": "models",
    "WindowGPT": "models",
    "PatchGANDiscriminator": "models",
    "LatentTransformer": "models",
    "load_taming_transformer": "models",
    "KVCache": "models",
    "VectorQuantizer": "quantizers",
    "EMAVectorQuantizer": "quantizers",
    "ResidualQuantizer": "quantizers",
    "CosineVectorQuantizer": "quantizers",
    "GumbelQuantizer": "quantizers",
    "HierarchicalQuantizer": "quantizers",
    "IndexPropagationQuantizer": "quantizers",
    "SimVQ": "quantizers",
    "patch": "compat",
    "unpatch": "compat",
    "sample_codes": "sampling",
    "sample": "sampling",
    "sample_best": "sampling",
    "decode_tiled": "sampling",
    "ops": "ops",
}
# Parts that are attributes as well; `import *` leaves them out, as some need more packages.
_PARTS = (
    "compat", "data", "guidance", "losses", "models", "numpy", "quantizers", "sampling", "train",
)  # fmt: skip

__all__ = [
    "GPT",
    "VQGAN",
    "CosineVectorQuantizer",
    "EMAVectorQuantizer",
    "GumbelQuantizer",
    "HierarchicalQuantizer",
    "IndexPropagationQuantizer",
    "KVCache",
    "LatentTransformer",
    "PatchGANDiscriminator",
    "ResidualQuantizer",
    "SimVQ",
    "VectorQuantizer",
    "WindowGPT",
    "__version__",
    "decode_tiled",
    "load_taming_transformer",
    "ops",
    "patch",
    "sample",
    "sample_best",
    "sample_codes",
    "unpatch",
]

if TYPE_CHECKING:
    from . import compat as compat
    from . import data as data
    from . import guidance as guidance
    from . import losses as losses
    from . import models as models
    from . import numpy as numpy
    from . import ops
    from . import quantizers as quantizers
    from . import sampling as sampling
    from . import train as train
    from .compat import patch, unpatch
    from .models import (
        GPT,
        VQGAN,
        KVCache,
        LatentTransformer,
        PatchGANDiscriminator,
        WindowGPT,
        load_taming_transformer,
    )
    from .quantizers import (
        CosineVectorQuantizer,
        EMAVectorQuantizer,
        GumbelQuantizer,
        HierarchicalQuantizer,
        IndexPropagationQuantizer,
        ResidualQuantizer,
        SimVQ,
        VectorQuantizer,
    )
    from .sampling import decode_tiled, sample, sample_best, sample_codes


def __getattr__(name: str) -> object:
    """Imports the module that holds `name` (PEP 562)."""
    if name in _PARTS:
        return importlib.import_module(f".{name}", __name__)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f".{_HOME[name]}", __name__)
    value = module if name == _HOME[name] else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
