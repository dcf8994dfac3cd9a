"""What every quantiser offers: latents in, codes out, and codes back into latents."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops
from .checks import check_bool, check_indices, check_integer, check_latents, check_number


class QuantizerInfo(NamedTuple):
    """What a quantiser knows about one call besides its output and its loss."""

    indices: Tensor
    """(B, H, W) int64, the code chosen for each latent; (B, H, W, Q) where each latent has Q."""
    counts: Tensor
    """(num_codes,) int64, how often each code was chosen in this call."""
    commitment_loss: Tensor
    """Scalar, mean squared distance; its gradient reaches z only. Not weighted."""
    codebook_loss: Tensor
    """Scalar, the same value; its gradient reaches the codebook only. Not weighted."""
    sample_entropy: Tensor | None = None
    """Scalar, nats, of `entropy_terms`; None where the quantiser's loss has no entropies."""
    average_entropy: Tensor | None = None
    """The other one."""


class CodebookQuantizer(nn.Module):
    """Base of all quantisers: a number of codes, counting them and looking them up.

    Args:
        codebook_size: K, the number of codes.
        e_dim: D, the length of a code.

    Raises:
        ValueError: an argument that cannot work, named.
    """

    codes_per_latent = 1
    """Codes that describe one latent: more than one in a residual quantiser."""
    restartable = False
    """Whether the rows of its `codebooks` are codes that may be moved onto latents."""

    def __init__(self, codebook_size: int, e_dim: int) -> None:
        super().__init__()
        check_integer("codebook_size", codebook_size)
        check_integer("e_dim", e_dim)
        self.codebook_size = codebook_size
        self.e_dim = e_dim

    @property
    def num_codes(self) -> int:
        """The length of `counts`: K, or more where there are several codebooks."""
        return self.codebook_size

    @property
    def codebook(self) -> Tensor:
        """The codes (num_codes, D) as `lookup` returns them, differentiable in what they are of."""
        raise NotImplementedError

    def encode(self, z: Tensor) -> Tensor:
        """Indices (B, H, W) int64 of the codes of the latents z (B, C, H, W)."""
        raise NotImplementedError

    def lookup(self, indices: Tensor) -> Tensor:
        """The codes (B, D, ...) that indices (B, ...) name.

        Raises:
            ValueError: a single number; an index outside [0, codebook_size), on the CPU; elsewhere
                torch reports it.
        """
        check_indices("indices", indices, self.codebook_size)
        if indices.ndim == 0:
            raise ValueError("indices must be (B, ...), got ()")
        return F.embedding(indices, self.codebook).movedim(-1, 1).contiguous()

    def _count(self, indices: Tensor) -> Tensor:
        # torch.bincount makes the host wait for a CUDA device to learn its own size; this does not.
        flat = indices.flatten()
        return flat.new_zeros(self.num_codes).scatter_add_(0, flat, torch.ones_like(flat))


class Quantizer(CodebookQuantizer):
    """Base of the quantisers whose latents lie among their codes, each replaced by the nearest.

    A subclass says what `codebook` is and what `forward` does. The two squared-error terms are
    combined in either of two ways that are both in use:

    - `legacy=False`: loss = beta * commitment_loss + codebook_loss, as the papers have it.
    - `legacy=True`: loss = commitment_loss + beta * codebook_loss, as the reference's
      checkpoints were trained.

    Args:
        codebook_size: K, the number of codes.
        e_dim: D, the length of a code.
        beta: weight of one of the two terms, see above.
        legacy: which of the two.

    Raises:
        ValueError: an argument that cannot work, named.
    """

    def __init__(
        self,
        codebook_size: int = 1024,
        e_dim: int = 256,
        beta: float = 0.25,
        legacy: bool = False,
    ) -> None:
        super().__init__(codebook_size, e_dim)
        check_number("beta", beta)
        if beta < 0:
            raise ValueError(f"beta must not be negative, got {beta}")
        check_bool("legacy", legacy)
        self.beta = beta
        self.legacy = legacy

    def codebooks(self) -> list[nn.Parameter]:
        """Of a restartable quantiser the codebooks (K, D), in the order of `counts`."""
        raise NotImplementedError

    def codebook_latents(self, z: Tensor) -> list[Tensor]:
        """For each of `codebooks` the latents (M, D) that choose from it, of z (B, D, H, W)."""
        raise NotImplementedError

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, QuantizerInfo]:
        """Quantises latents.

        Args:
            z: (B, D, H, W), any floating dtype and strides; read in place, distances are those
                of the values as given (bf16 under autocast stays bf16 values).

        Returns:
            z_q of z's shape, dtype and memory layout; the weighted loss, a scalar; QuantizerInfo.

        Raises:
            ValueError: z is not (B, D, H, W) with the codebook's D, or not floating point.
        """
        raise NotImplementedError

    def encode(self, z: Tensor) -> Tensor:
        """Indices (B, H, W) int64 of the codes nearest to the latents z (B, D, H, W)."""
        self._check_latents(z)
        return ops.nearest_code(z.movedim(1, -1), self.codebook, return_distance=False)

    def extra_repr(self) -> str:
        return f"beta={self.beta}, legacy={self.legacy}"

    def _quantize(self, z: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor, QuantizerInfo]:
        """`forward` with a given codebook (K, D)."""
        self._check_latents(z)
        z_q, indices, commitment_loss, codebook_loss = ops.vector_quantize(
            z.movedim(1, -1), codebook
        )
        info = QuantizerInfo(indices, self._count(indices), commitment_loss, codebook_loss)
        return z_q.movedim(-1, 1), self._weigh(commitment_loss, codebook_loss), info

    def _weigh(self, commitment_loss: Tensor, codebook_loss: Tensor) -> Tensor:
        if self.legacy:
            return commitment_loss + self.beta * codebook_loss
        return self.beta * commitment_loss + codebook_loss

    def _check_latents(self, z: Tensor) -> None:
        check_latents(z, "D", self.e_dim)
