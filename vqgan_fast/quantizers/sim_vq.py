"""A codebook that moves as a whole (Zhu et al., "Addressing representation collapse", 2024)."""

from __future__ import annotations

from torch import Tensor, nn

from .base import Quantizer, QuantizerInfo
from .precision import without_autocast


class SimVQ(Quantizer):
    """A frozen random codebook C behind a learned linear map W: the codes are the rows of C W^T.

    Every step moves all codes, so none dies of not being chosen. `embedding.weight` (C) is drawn
    from N(0, 1/D) and gets no gradient; `projection.weight` (W, D x D) starts as the identity.
    Losses and interface: `Quantizer`. arXiv 2411.02038, eq. 6.

    Args:
        codebook_size: K, the number of codes.
        e_dim: D, the length of a code.
        beta: weight of the commitment loss, or with `legacy` of the codebook loss.
        legacy: loss = commitment_loss + beta * codebook_loss, as the reference has it, instead of
            beta * commitment_loss + codebook_loss.

    Returns:
        Of a call with z (B, D, H, W): z_q of its shape, the nearest codes; the loss, a scalar;
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
        self.embedding = nn.Embedding(codebook_size, e_dim)
        nn.init.normal_(self.embedding.weight, std=e_dim**-0.5)
        self.embedding.weight.requires_grad_(False)
        self.projection = nn.Linear(e_dim, e_dim, bias=False)
        nn.init.eye_(self.projection.weight)

    @property
    def codebook(self) -> Tensor:
        """The codes (K, D), differentiable in the linear map."""
        # Rounded codes would be others in training under autocast than in `encode` after it.
        weight = self.embedding.weight
        with without_autocast(weight.device):
            return self.projection(weight)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, QuantizerInfo]:
        return self._quantize(z, self.codebook)
