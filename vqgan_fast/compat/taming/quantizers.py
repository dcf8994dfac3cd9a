"""The two nearest-code quantisers of the reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...ops.checks import accumulation_type
from ..reference_quantizer import (
    RemappingQuantizer,
    image_of_codes,
    new_codebook,
    quantize_image,
)


class VectorQuantizer(nn.Module):
    """Stands in for the reference's first `VectorQuantizer`. State dict: embedding.weight.

    Args:
        n_e: K, the number of codes.
        e_dim: D, the length of a code.
        beta: weight of the codebook loss; the commitment loss has 1.
    """

    returns_one_hot = True
    """Set to False, on a module or the class, to get None for the N x K one-hot matrix."""

    def __init__(self, n_e: int, e_dim: int, beta: float) -> None:
        super().__init__()
        self.embedding = new_codebook(n_e, e_dim)
        self.n_e = n_e
        self.e_dim = e_dim
        self.beta = beta

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor | None, Tensor]]:
        """Quantises latents z (B, D, H, W).

        Returns:
            z_q (B, D, H, W); the loss; (perplexity, one-hot codes (N, K), indices (N, 1)), N = B H
            W.
        """
        z_q, commitment, codebook_loss, indices = quantize_image(z, self.embedding.weight)
        loss = commitment + self.beta * codebook_loss
        indices = indices.flatten()
        spread, one_hot = usage_of(indices, self.n_e, z, self.returns_one_hot)
        return z_q, loss, (spread, one_hot, indices.unsqueeze(1))

    def get_codebook_entry(self, indices: Tensor, shape: Sequence[int] | None) -> Tensor:
        """The codes of indices (N,): (B, C, H, W) for a shape (B, H, W, C), (N, C) for None.

        Raises:
            ValueError: an index out of range, on the CPU; a shape that does not fit.
        """
        return image_of_codes(indices, self.embedding.weight, shape)


class VectorQuantizer2(RemappingQuantizer):
    """Stands in for the reference's `VectorQuantizer2`, which latent diffusion uses too.

    Args:
        n_e: K, the number of codes.
        e_dim: D, the length of a code.
        beta: weight of the codebook loss if legacy, else of the commitment loss.
        remap: a .npy file with the list of codes that count, or None.
        unknown_index: "random", "extra" or an integer: the index of a code that is not in it.
        sane_index_shape: indices (B, H, W) instead of (B H W,).
        legacy: where beta goes.
    """

    def __init__(
        self,
        n_e: int,
        e_dim: int,
        beta: float,
        remap: Any = None,
        unknown_index: str | int = "random",
        sane_index_shape: bool = False,
        legacy: bool = True,
    ) -> None:
        super().__init__(n_e, e_dim, beta, remap, unknown_index, sane_index_shape, legacy)
        self.e_dim = e_dim

    def forward(
        self,
        z: Tensor,
        temp: float | None = None,
        rescale_logits: bool = False,
        return_logits: bool = False,
    ) -> tuple[Tensor, Tensor, tuple[None, None, Tensor]]:
        """As diffusers'; the further arguments are there for the sake of GumbelQuantize's callers.

        Raises:
            ValueError: one of them is not its default (temp may be 1).
        """
        if temp not in (None, 1.0) or rescale_logits or return_logits:
            raise ValueError(
                "temp, rescale_logits and return_logits are for GumbelQuantize, got "
                f"{temp}, {rescale_logits}, {return_logits}"
            )
        return super().forward(z)


def usage_of(
    indices: Tensor, num_codes: int, z: Tensor, with_one_hot: bool
) -> tuple[Tensor, Tensor | None]:
    """The perplexity of indices (N,), a scalar, and their one-hot codes (N, K), in z's dtype."""
    counts = torch.zeros(num_codes, device=z.device).index_add_(
        0, indices, torch.ones(len(indices), device=z.device)
    )
    # In fp16 the logarithm's 1e-10 would be 0.
    frequencies = (counts / len(indices)).to(accumulation_type(z))
    spread = torch.exp(-torch.sum(frequencies * torch.log(frequencies + 1e-10))).to(z.dtype)
    if not with_one_hot:
        return spread, None
    # Not F.one_hot, whose int64 matrix is twice as large as this one and lives beside it.
    one_hot = z.new_zeros(len(indices), num_codes).scatter_(1, indices.unsqueeze(1), 1)
    return spread, one_hot
