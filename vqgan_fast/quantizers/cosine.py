"""Codes and latents on the unit sphere (Yu et al., "Vector-quantized image modeling", 2022)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from .. import ops
from .base import QuantizerInfo
from .vector_quantizer import VectorQuantizer


class CosineVectorQuantizer(VectorQuantizer):
    """Replaces each latent by the code with the largest cosine, both scaled to length 1.

    Quantised latents have length 1. Gradients pass through the scaling, of latents and of codes.
    Losses and interface: `Quantizer`; `embedding.weight` holds codes of any length, drawn from
    N(0, 1), so that their directions are uniform.

    Args:
        codebook_size: K, the number of codes.
        e_dim: D, the length of a code.
        beta: weight of the commitment loss, or with `legacy` of the codebook loss.
        legacy: loss = commitment_loss + beta * codebook_loss, as the reference has it, instead of
            beta * commitment_loss + codebook_loss.

    Returns:
        Of a call with z (B, D, H, W): z_q of its shape, codes of length 1; the loss, a scalar;
        QuantizerInfo, whose `indices` are (B, H, W).

    Raises:
        ValueError: an argument, or z, that cannot work, named.
    """

    def __init__(
        self,
        codebook_size: int = 1024,
        e_dim: int = 256,
        beta: float = 0.25,
        legacy: bool = False,
    ) -> None:
        super().__init__(codebook_size, e_dim, beta, legacy)
        self.embedding.reset_parameters()

    @property
    def codebook(self) -> Tensor:
        """The codes (K, D), of length 1."""
        return F.normalize(self.embedding.weight, dim=-1)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, QuantizerInfo]:
        self._check_latents(z)
        return self._quantize(F.normalize(z, dim=1), self.codebook)

    def encode(self, z: Tensor) -> Tensor:
        self._check_latents(z)
        unit = F.normalize(z, dim=1).movedim(1, -1)
        return ops.nearest_code(unit, self.codebook, return_distance=False)
