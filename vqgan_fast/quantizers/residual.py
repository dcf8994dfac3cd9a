"""Several codes for each latent (Zeghidour et al. 2021; Lee et al. 2022, "RQ-VAE")."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops
from .base import Quantizer, QuantizerInfo
from .checks import check_indices, check_integer
from .vector_quantizer import VectorQuantizer


class ResidualQuantizer(Quantizer):
    """Quantises a latent, then what is left of it, Q times; z_q is the sum of the Q codes.

        r_1 = z,   r_{i+1} = r_i - e_i,   e_i the code of stage i nearest to r_i

    Both losses are means over the stages, each of the distance of r_i to e_i; nothing flows from a
    stage to the codebooks before it. Indices have a last axis of Q.

    Args:
        codebook_size, e_dim, beta, legacy: as `Quantizer`; K is that of one stage.
        num_quantizers: Q.
        shared: one codebook for all stages (RQ-VAE) instead of one for each (SoundStream).

    Raises:
        ValueError: an argument that cannot work, named.
    """

    def __init__(
        self,
        codebook_size: int = 1024,
        e_dim: int = 256,
        beta: float = 0.25,
        legacy: bool = False,
        num_quantizers: int = 4,
        shared: bool = False,
    ) -> None:
        super().__init__(codebook_size, e_dim, beta, legacy)
        check_integer("num_quantizers", num_quantizers)
        self.codes_per_latent = num_quantizers
        self.shared = shared
        self.stages = nn.ModuleList(
            VectorQuantizer(codebook_size, e_dim) for _ in range(1 if shared else num_quantizers)
        )

    @property
    def num_codes(self) -> int:
        return self.codebook_size * len(self.stages)

    @property
    def codebook(self) -> Tensor:
        """The codes of all stages, one stage after the other: (Q K, D), (K, D) if shared."""
        return torch.cat([stage.codebook for stage in self.stages])

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, QuantizerInfo]:
        self._check_latents(z)
        rows = z.movedim(1, -1)
        residual, total = rows, torch.zeros_like(rows)
        chosen, losses = [], []
        for codebook in self._codebooks():
            _, indices, *both = ops.vector_quantize(residual, codebook)
            codes = F.embedding(indices, codebook.detach())
            residual, total = residual - codes, total + codes
            chosen.append(indices)
            losses.append(torch.stack(both))
        indices = torch.stack(chosen, dim=-1)
        commitment_loss, codebook_loss = torch.stack(losses).mean(0)
        info = QuantizerInfo(indices, self._count(indices), commitment_loss, codebook_loss)
        z_q = (rows + (total - rows).detach()).to(z.dtype)
        return z_q.movedim(-1, 1), self._weigh(commitment_loss, codebook_loss), info

    @torch.no_grad()
    def encode(self, z: Tensor) -> Tensor:
        """Indices (B, H, W, Q) int64 of the latents z (B, D, H, W), stage by stage."""
        self._check_latents(z)
        residual = z.movedim(1, -1)
        chosen = []
        for codebook in self._codebooks():
            indices = ops.nearest_code(residual, codebook, return_distance=False)
            residual = residual - F.embedding(indices, codebook)
            chosen.append(indices)
        return torch.stack(chosen, dim=-1)

    def lookup(self, indices: Tensor) -> Tensor:
        """The sums (B, D, ...) of the codes that indices (B, ..., Q) name.

        Fewer than Q indices, from the first stage on, give the coarser latent.

        Raises:
            ValueError: no index or more than Q of them a latent; one out of range, on the CPU.
        """
        check_indices("indices", indices, self.codebook_size)
        depth = indices.shape[-1] if indices.ndim > 0 else 0
        if not 1 <= depth <= self.codes_per_latent:
            raise ValueError(
                f"indices must be (B, ..., Q) with Q from 1 to {self.codes_per_latent}, got "
                f"{tuple(indices.shape)}"
            )
        pairs = zip(indices.unbind(-1), self._codebooks(), strict=False)
        codes = sum(F.embedding(stage_indices, codebook) for stage_indices, codebook in pairs)
        return codes.movedim(-1, 1).contiguous()

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, num_quantizers={self.codes_per_latent}"

    def _codebooks(self) -> list[Tensor]:
        """One codebook for each stage."""
        stages = list(self.stages) * (self.codes_per_latent if self.shared else 1)
        return [stage.codebook for stage in stages]

    def _count(self, indices: Tensor) -> Tensor:
        if not self.shared:
            stage = torch.arange(self.codes_per_latent, device=indices.device)
            indices = indices + self.codebook_size * stage
        return super()._count(indices)
