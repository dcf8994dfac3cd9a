"""The quantisers of taming-transformers, `taming.modules.vqvae.quantize`, and its module names.

    from vqgan_fast.compat.taming import VectorQuantizer2 as VectorQuantizer

`install()` makes code that says `import taming` run where the reference is not installed.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ..adopt import adopt
from .gumbel import GumbelQuantize
from .install import install, uninstall
from .moving_average import EMAVectorQuantizer, EmbeddingEMA
from .quantizers import VectorQuantizer, VectorQuantizer2

__all__ = [
    "SWAPS",
    "EMAVectorQuantizer",
    "EmbeddingEMA",
    "GumbelQuantize",
    "VectorQuantizer",
    "VectorQuantizer2",
    "install",
    "uninstall",
]


def _swap_first(peer: nn.Module) -> nn.Module:
    return adopt(VectorQuantizer, peer, ("n_e", "e_dim", "beta"))


def _swap_second(peer: nn.Module) -> nn.Module:
    return adopt(VectorQuantizer2, peer, ("legacy", "remap", "sane_index_shape"))


def _swap_ema(peer: nn.Module) -> nn.Module:
    if getattr(peer, "remap", None) is not None:
        raise NotImplementedError("remap, which the peer's EMAVectorQuantizer takes but never uses")
    needs = ("codebook_dim", "num_tokens", "beta", "embedding")
    module = adopt(EMAVectorQuantizer, peer, needs, has_own_embedding=True)
    needs = ("weight", "cluster_size", "embed_avg", "decay", "eps", "update")
    embedding = adopt(EmbeddingEMA, peer.embedding, needs)
    # A table of its own: the peer's is left as it is.
    module._modules = {**peer._modules, "embedding": embedding}
    return module


def _swap_gumbel(peer: nn.Module) -> nn.Module:
    """As heavy as before, until its attribute `draws_as_reference` is set to False."""
    needs = ("straight_through", "temperature", "kl_weight", "use_vqinterface", "proj", "embed")
    return adopt(GumbelQuantize, peer, (*needs, "remap", "n_embed", "embedding_dim"))


_QUANTIZE = "taming.modules.vqvae.quantize"
SWAPS: dict[str, Callable[[nn.Module], nn.Module]] = {
    f"{_QUANTIZE}.VectorQuantizer": _swap_first,
    f"{_QUANTIZE}.VectorQuantizer2": _swap_second,
    f"{_QUANTIZE}.EMAVectorQuantizer": _swap_ema,
    f"{_QUANTIZE}.GumbelQuantize": _swap_gumbel,
}
