"""The reference's moving-average quantiser, which there cannot be constructed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...quantizers.checks import check_integer, check_tensor
from ...quantizers.moving_average import HoldsAverages, update_averages
from ..reference_quantizer import quantize_image
from .quantizers import usage_of


class EmbeddingEMA(HoldsAverages):
    """The codebook and its moving averages. State dict: weight, cluster_size, embed_avg.

    Parameters without gradient, as in the reference. The averages stay in fp32 when the module is
    converted to half precision.

    Args:
        num_tokens: K.
        codebook_dim: D.
        decay: share of the averages that a step keeps.
        eps: added to each cluster size.
    """

    def __init__(
        self, num_tokens: int, codebook_dim: int, decay: float = 0.99, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.decay = decay
        self.eps = eps
        weight = torch.randn(num_tokens, codebook_dim)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.cluster_size = nn.Parameter(torch.zeros(num_tokens), requires_grad=False)
        self.embed_avg = nn.Parameter(weight.clone(), requires_grad=False)
        self.update = True

    def forward(self, embed_id: Tensor) -> Tensor:
        """The codes (..., D) of embed_id (...)."""
        return F.embedding(embed_id, self.weight)


class EMAVectorQuantizer(nn.Module):
    """Stands in for the reference's `EMAVectorQuantizer`, and works.

    There the constructor uses names that do not exist, and ranks drift apart; here counts and sums
    are taken over all ranks. Formulas, start (no code has been used, so what the first steps do not
    use moves far away) and state dict (embedding.{weight, cluster_size, embed_avg}) are its own;
    `vqgan_fast.EMAVectorQuantizer` starts better and can restart dead codes.

    Args:
        n_embed: K, the number of codes.
        embedding_dim: D, the length of a code.
        beta: weight of the commitment loss, which is the whole loss.
        decay: share of the averages that a step keeps.
        eps: added to each cluster size.
        remap, unknown_index: not covered; the reference takes them and never uses them.

    Raises:
        NotImplementedError: a remap.
    """

    returns_one_hot = True
    """Set to False, on a module or the class, to get None for the N x K one-hot matrix."""

    def __init__(
        self,
        n_embed: int,
        embedding_dim: int,
        beta: float,
        decay: float = 0.99,
        eps: float = 1e-5,
        remap: Any = None,
        unknown_index: str | int = "random",
    ) -> None:
        super().__init__()
        if remap is not None:
            raise NotImplementedError(f"remap is not covered by EMAVectorQuantizer, got {remap!r}")
        check_integer("n_embed", n_embed)
        check_integer("embedding_dim", embedding_dim)
        self.codebook_dim = embedding_dim
        self.num_tokens = n_embed
        self.beta = beta
        self.embedding = EmbeddingEMA(n_embed, embedding_dim, decay, eps)
        self.remap = None
        self.re_embed = n_embed

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor | None, Tensor]]:
        """Quantises latents z (B, D, H, W); in training mode, moves the codebook afterwards.

        Returns:
            z_q (B, D, H, W); beta times the commitment loss; (perplexity, one-hot codes (N, K),
            indices (N,)), N = B H W.
        """
        check_tensor("z", z)
        state = self.embedding
        updating = self.training and state.update
        # The graph keeps the codes that were compared with, because the update is in place.
        codebook = state.weight.detach()
        if updating and z.requires_grad:
            codebook = codebook.clone()
        z_q, commitment, _, indices = quantize_image(z, codebook)
        if updating:
            averages = state.weight, state.cluster_size, state.embed_avg
            update_averages(*averages, z.movedim(1, -1), indices, state.decay, state.eps)
        indices = indices.flatten()
        spread, one_hot = usage_of(indices, self.num_tokens, z, self.returns_one_hot)
        return z_q, self.beta * commitment, (spread, one_hot, indices)
