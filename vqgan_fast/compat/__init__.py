"""The quantisers of other code bases, on our ops: change one import, or call `patch(model)`.

One module for each peer: `taming`, `diffusers`, `llamagen`, `transformers`,
`vector_quantize_pytorch`. Their classes take the peers' arguments, return what the peers return,
and have the peers' state-dict keys and gradients; none imports the peer itself. `docs/drop_in.md`
lists what is covered.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from .patching import PEERS, PatchReport, patch, unpatch

__all__ = ["PatchReport", "patch", "unpatch"]


def __getattr__(name: str) -> ModuleType:
    """Imports the module of a peer (PEP 562)."""
    if name not in PEERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f".{name}", __name__)
