"""The learned codebook of a VQGAN (van den Oord et al. 2017; Esser et al. 2021, Eq. 2 and 4)."""

from __future__ import annotations

from torch import Tensor, nn

from .base import Quantizer, QuantizerInfo


class VectorQuantizer(Quantizer):
    """Replaces each latent by its nearest code, with straight-through gradients.

    The codebook is `embedding.weight`, (codebook_size, e_dim), drawn from U(-1/K, 1/K). It learns
    by the gradient of the codebook loss. Losses and interface: `Quantizer`.

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

    restartable = True

    def __init__(
        self,
        codebook_size: int = 1024,
        e_dim: int = 256,
        beta: float = 0.25,
        legacy: bool = False,
    ) -> None:
        super().__init__(codebook_size, e_dim, beta, legacy)
        self.embedding = nn.Embedding(codebook_size, e_dim)
        nn.init.uniform_(self.embedding.weight, -1 / codebook_size, 1 / codebook_size)

    @property
    def codebook(self) -> Tensor:
        """The codes (K, D): the parameter itself."""
        return self.embedding.weight

    def codebooks(self) -> list[nn.Parameter]:
        return [self.embedding.weight]

    def codebook_latents(self, z: Tensor) -> list[Tensor]:
        return [z.movedim(1, -1).flatten(0, -2)]

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, QuantizerInfo]:
        return self._quantize(z, self.codebook)
