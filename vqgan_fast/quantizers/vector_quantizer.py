"""The learned codebook of a VQGAN (van den Oord et al. 2017; Esser et al. 2021, Eq. 2 and 4)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops
from .checks import check_indices, check_integer


class QuantizerInfo(NamedTuple):
    """What a quantiser knows about one call besides its output and its loss."""

    indices: Tensor
    """(B, H, W) int64, the code chosen for each latent."""
    counts: Tensor
    """(K,) int64, how often each code was chosen in this call."""
    commitment_loss: Tensor
    """Scalar, mean squared distance; its gradient reaches z only. Not weighted."""
    codebook_loss: Tensor
    """Scalar, the same value; its gradient reaches the codebook only. Not weighted."""


class VectorQuantizer(nn.Module):
    """Replaces each latent by its nearest code, with straight-through gradients.

    The two squared-error terms are combined in either of two ways that are both in use:

    - `legacy=False`: loss = beta * commitment_loss + codebook_loss, as the papers have it.
    - `legacy=True`: loss = commitment_loss + beta * codebook_loss, as the reference's
      checkpoints were trained.

    The codebook is `embedding.weight`, (codebook_size, e_dim), drawn from U(-1/K, 1/K).

    Args:
        codebook_size: K, the number of codes.
        e_dim: D, the length of a code.
        beta: weight of one of the two terms, see above.
        legacy: which of the two.
    """

    def __init__(
        self,
        codebook_size: int = 1024,
        e_dim: int = 256,
        beta: float = 0.25,
        legacy: bool = False,
    ) -> None:
        super().__init__()
        check_integer("codebook_size", codebook_size)
        check_integer("e_dim", e_dim)
        if beta < 0:
            raise ValueError(f"beta must not be negative, got {beta}")
        self.codebook_size = codebook_size
        self.e_dim = e_dim
        self.beta = beta
        self.legacy = legacy
        self.embedding = nn.Embedding(codebook_size, e_dim)
        nn.init.uniform_(self.embedding.weight, -1 / codebook_size, 1 / codebook_size)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, QuantizerInfo]:
        """Quantises latents.

        Args:
            z: (B, D, H, W), any floating dtype and strides; read in place, distances are those
                of the values as given (bf16 under autocast stays bf16 values).

        Returns:
            z_q of z's shape, dtype and memory layout; the weighted loss, a scalar; QuantizerInfo.

        Raises:
            ValueError: z is not (B, D, H, W) with the codebook's D.
        """
        self._check_latents(z)
        z_q, indices, commitment_loss, codebook_loss = ops.vector_quantize(
            z.movedim(1, -1), self.embedding.weight
        )
        if self.legacy:
            loss = commitment_loss + self.beta * codebook_loss
        else:
            loss = self.beta * commitment_loss + codebook_loss
        info = QuantizerInfo(indices, self._count(indices), commitment_loss, codebook_loss)
        return z_q.movedim(-1, 1), loss, info

    def encode(self, z: Tensor) -> Tensor:
        """Indices (B, H, W) int64 of the codes nearest to the latents z (B, D, H, W)."""
        self._check_latents(z)
        return ops.nearest_code(z.movedim(1, -1), self.embedding.weight, return_distance=False)

    def lookup(self, indices: Tensor) -> Tensor:
        """The codes (B, D, ...) that indices (B, ...) name.

        Raises:
            ValueError: an index outside [0, codebook_size), on the CPU; elsewhere torch reports it.
        """
        check_indices("indices", indices, self.codebook_size)
        return F.embedding(indices, self.embedding.weight).movedim(-1, 1).contiguous()

    def extra_repr(self) -> str:
        return f"beta={self.beta}, legacy={self.legacy}"

    def _count(self, indices: Tensor) -> Tensor:
        # torch.bincount makes the host wait for a CUDA device to learn its own size; this does not.
        flat = indices.flatten()
        return flat.new_zeros(self.codebook_size).scatter_add_(0, flat, torch.ones_like(flat))

    def _check_latents(self, z: Tensor) -> None:
        if z.ndim != 4 or z.shape[1] != self.e_dim:
            raise ValueError(f"z must be (B, D, H, W) with D = {self.e_dim}, got {tuple(z.shape)}")
