"""The quantiser of IBQ, which trains every code (Shi et al., "Scalable image tokenization with
index backpropagation quantization", 2024)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import ops
from ..ops.checks import accumulation_type
from .base import QuantizerInfo
from .checks import check_number
from .entropy import entropy_terms
from .vector_quantizer import VectorQuantizer


class IndexPropagationQuantizer(VectorQuantizer):
    """Replaces each latent by the code of the largest dot product, with gradients to all codes.

        p[n] = softmax_k(z[n] . e[k]),   index[n] = argmax_k p[n, k]
        z_q[n] = e[index[n]] in value; its gradient is that of sum_k p[n, k] e[k] in p, and that of
                 e[index[n]] in the codebook

        quantizer_loss = mean((z_q - z)^2) + commitment_loss + beta * codebook_loss
        loss = quantizer_loss + entropy_weight * (sample_weight * sample_entropy
                                                  - batch_weight * average_entropy)

    So every code gets a gradient, in O(N D + K D) memory whatever N and K (`ops.soft_assign`).
    `legacy=False` gives beta to the commitment loss instead. Entropies are those of `entropy_terms`
    with the metric "dot".

    Args:
        codebook_size, e_dim, beta: as in `VectorQuantizer`.
        legacy: which term beta weighs; True is what IBQ trains with.
        entropy_weight: 0 leaves the entropies out, and does not compute them.
        entropy_temperature: of the entropies alone.
        sample_weight, batch_weight: of the two entropies.

    Raises:
        ValueError: an argument, or z, that cannot work, named.
    """

    def __init__(
        self,
        codebook_size: int = 16384,
        e_dim: int = 256,
        beta: float = 0.25,
        legacy: bool = True,
        entropy_weight: float = 0.0,
        entropy_temperature: float = 0.01,
        sample_weight: float = 1.0,
        batch_weight: float = 1.0,
    ) -> None:
        super().__init__(codebook_size, e_dim, beta, legacy)
        check_number("entropy_weight", entropy_weight)
        check_number("entropy_temperature", entropy_temperature)
        check_number("sample_weight", sample_weight)
        check_number("batch_weight", batch_weight)
        if entropy_temperature <= 0:
            raise ValueError(f"entropy_temperature must be positive, got {entropy_temperature}")
        self.entropy_weight = entropy_weight
        self.entropy_temperature = entropy_temperature
        self.sample_weight = sample_weight
        self.batch_weight = batch_weight

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, QuantizerInfo]:
        """Quantises latents: `VectorQuantizer.forward`, with the losses above."""
        self._check_latents(z)
        rows, codebook = z.movedim(1, -1), self.embedding.weight
        training = torch.is_grad_enabled()
        # The codebook as values is held fixed: its gradient is that of the chosen codes.
        assigned = ops.soft_assign(
            rows,
            codebook,
            outputs=("indices", "expected") if training else ("indices",),
            metric="dot",
            values=codebook.detach() if training else None,
        )
        codes = F.embedding(assigned.indices, codebook)
        z_q = codes
        if training:
            z_q = codes + (assigned.expected - assigned.expected.detach())
        # In half precision, means of squares would be rounded to three digits, or overflow.
        wide = accumulation_type(rows, codebook)
        wide_rows, wide_codes = rows.to(wide), codes.to(wide)
        straight = (z_q.to(wide) - wide_rows).square().mean()
        commitment_loss = (wide_codes.detach() - wide_rows).square().mean()
        codebook_loss = (wide_codes - wide_rows.detach()).square().mean()
        if self.legacy:
            loss = straight + commitment_loss + self.beta * codebook_loss
        else:
            loss = straight + self.beta * commitment_loss + codebook_loss
        sample = average = None
        if self.entropy_weight != 0:
            sample, average = entropy_terms(rows, codebook, self.entropy_temperature, metric="dot")
            loss = loss + self.entropy_weight * (
                self.sample_weight * sample - self.batch_weight * average
            )
        counts = self._count(assigned.indices)
        info = QuantizerInfo(
            assigned.indices, counts, commitment_loss, codebook_loss, sample, average
        )
        z_q = z_q.to(z.dtype).movedim(-1, 1)
        # Codes are looked up with their entries side by side, as channels_last has them.
        return z_q if z.stride(1) == 1 else z_q.contiguous(), loss, info

    def encode(self, z: Tensor) -> Tensor:
        """Indices (B, H, W) int64 of the codes with the largest dot products."""
        self._check_latents(z)
        return ops.soft_assign(
            z.movedim(1, -1), self.embedding.weight, outputs=("indices",), metric="dot"
        ).indices

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, entropy_weight={self.entropy_weight}"
