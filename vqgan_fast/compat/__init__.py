"""The quantisers of other code bases, on our ops: change one import, or call `patch(model)`.

One module for each peer: `taming`, `diffusers`, `llamagen`, `transformers`,
`vector_quantize_pytorch`. Their classes take the peers' arguments, return what the peers return,
and have the peers' state-dict keys and gradients; none imports the peer itself. `docs/drop_in.md`
lists what is covered.
"""

from .patching import PatchReport, patch, unpatch

__all__ = ["PatchReport", "patch", "unpatch"]
