"""diffusers' quantiser: `diffusers.models.autoencoders.vae.VectorQuantizer`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from .adopt import adopt
from .reference_quantizer import RemappingQuantizer

__all__ = ["SWAPS", "VectorQuantizer"]


class VectorQuantizer(RemappingQuantizer):
    """Stands in for diffusers' `VectorQuantizer`, as its `VQModel` has it.

    Args:
        n_e: K, the number of codes.
        vq_embed_dim: D, the length of a code.
        beta: weight of the codebook loss if legacy, else of the commitment loss.
        remap: a .npy file with the list of codes that count, or None.
        unknown_index: "random", "extra" or an integer: the index of a code that is not in it.
        sane_index_shape: indices (B, H, W) instead of (B H W,).
        legacy: where beta goes.
    """

    def __init__(
        self,
        n_e: int,
        vq_embed_dim: int,
        beta: float,
        remap: Any = None,
        unknown_index: str | int = "random",
        sane_index_shape: bool = False,
        legacy: bool = True,
    ) -> None:
        super().__init__(n_e, vq_embed_dim, beta, remap, unknown_index, sane_index_shape, legacy)
        self.vq_embed_dim = vq_embed_dim


def _swap(peer: nn.Module) -> nn.Module:
    return adopt(VectorQuantizer, peer, ("legacy", "remap", "sane_index_shape"))


SWAPS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "diffusers.models.autoencoders.vae.VectorQuantizer": _swap,
    "diffusers.models.vae.VectorQuantizer": _swap,  # before 0.24
}
