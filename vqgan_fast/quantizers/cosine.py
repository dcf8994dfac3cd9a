"""Codes and latents on the unit sphere (Yu et al., "Vector-quantized image modeling", 2022)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from .. import ops
from ..ops.checks import accumulation_type
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
        weight = self.embedding.weight
        return F.normalize(weight.to(accumulation_type(weight)), dim=-1).to(weight.dtype)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, QuantizerInfo]:
        self._check_latents(z)
        z_q, loss, info = self._quantize(*self._of_unit_length(z))
        return z_q.to(z.dtype), loss, info

    def encode(self, z: Tensor) -> Tensor:
        self._check_latents(z)
        unit, codebook = self._of_unit_length(z)
        return ops.nearest_code(unit.movedim(1, -1), codebook, return_distance=False)

    def _of_unit_length(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, D, H, W) and the codes (K, D) that are compared, in fp32 at least.

        Half precision has no number small enough to keep a zero vector from being divided by zero,
        and rounds unit vectors by more than cosines differ.
        """
        weight = self.embedding.weight
        wide = accumulation_type(z, weight)
        return F.normalize(z.to(wide), dim=1), F.normalize(weight.to(wide), dim=-1)
