"""The reference's Gumbel-softmax quantiser (Jang et al. 2016, arXiv 1611.01144)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...quantizers.checks import check_indices, check_integer, check_latents
from ...quantizers.gumbel import draw_codes
from ..reference_quantizer import image_of_codes
from ..remap import RemapsIndices


class GumbelQuantize(RemapsIndices):
    """Stands in for the reference's `GumbelQuantize`. State dict: proj.*, embed.weight[, used].

    Draws codes in eval mode too, as there, from torch's default generator: the same seed gives the
    same codes. That takes a random number for each latent and code, so N x K are held, as there.
    With the attribute `draws_as_reference` set to False, codes are drawn by `ops.soft_assign`:
    the same probabilities, gradients and loss, other draws, and O(N D) memory.

    Args:
        num_hiddens: channels of the latents.
        embedding_dim: D, the length of a code.
        n_embed: K, the number of codes.
        straight_through: one code forward in training mode too, instead of a mixture.
        kl_weight: weight of the divergence of the codes' distribution from the uniform one.
        temp_init: the attribute `temperature`.
        use_vqinterface: return (None, None, indices) instead of the indices.
        remap: a .npy file with the list of codes that count, or None.
        unknown_index: as VectorQuantizer2.
    """

    draws_as_reference = True

    def __init__(
        self,
        num_hiddens: int,
        embedding_dim: int,
        n_embed: int,
        straight_through: bool = True,
        kl_weight: float = 5e-4,
        temp_init: float = 1.0,
        use_vqinterface: bool = True,
        remap: Any = None,
        unknown_index: str | int = "random",
    ) -> None:
        super().__init__()
        for name, value in (("num_hiddens", num_hiddens), ("embedding_dim", embedding_dim)):
            check_integer(name, value)
        check_integer("n_embed", n_embed)
        self.embedding_dim = embedding_dim
        self.n_embed = n_embed
        self.straight_through = straight_through
        self.temperature = temp_init
        self.kl_weight = kl_weight
        self.proj = nn.Conv2d(num_hiddens, n_embed, 1)
        self.embed = nn.Embedding(n_embed, embedding_dim)
        self.use_vqinterface = use_vqinterface
        self.set_remap(remap, unknown_index, n_embed)

    def forward(self, z: Tensor, temp: float | None = None, return_logits: bool = False) -> tuple:
        """Quantises z (B, C, H, W), C = num_hiddens.

        Args:
            temp: of the softmax, instead of the attribute.
            return_logits: append the logits (B, K, H, W), those of the remap's codes if there is
                one.

        Returns:
            z_q (B, D, H, W), the weighted divergence, (None, None, indices (B, H, W))[, logits].

        Raises:
            ValueError: z has another shape or is not floating point.
        """
        check_latents(z, "C", self.proj.weight.shape[1])
        hard = self.straight_through or not self.training
        tau = self.temperature if temp is None else temp
        if self.draws_as_reference or return_logits:
            z_q, divergence, indices, logits = self._draw_densely(z, tau, hard)
        else:
            z_q, divergence, indices = self._draw(z, tau, hard)
        if self.remap is not None:
            indices = self.remap_to_used(self.used[indices].long())
        loss = self.kl_weight * divergence.mean()
        if not self.use_vqinterface:
            return z_q, loss, indices
        info = (None, None, indices)
        return (z_q, loss, info, logits) if return_logits else (z_q, loss, info)

    def get_codebook_entry(self, indices: Tensor, shape: Sequence[int]) -> Tensor:
        """The codes (B, D, H, W) of indices (B H W,), for a shape (B, H, W, C).

        Raises:
            ValueError: an index out of range, on the CPU; a shape that does not fit.
        """
        check_indices("indices", indices, self.re_embed)
        if shape is None:
            raise ValueError("shape must be (B, H, W, C), got None")
        if self.remap is not None:
            indices = self.unmap_to_all(indices)
        # As in the reference, the last entry of shape is not looked at.
        return image_of_codes(indices, self.embed.weight, (*shape[:3], self.embedding_dim))

    def _draw_densely(self, z: Tensor, tau: float, hard: bool) -> tuple[Tensor, ...]:
        logits, codes = self.proj(z), self.embed.weight
        if self.remap is not None:
            logits, codes = logits[:, self.used], codes[self.used]
        weights = F.gumbel_softmax(logits, tau=tau, dim=1, hard=hard)
        z_q = torch.einsum("bnhw,nd->bdhw", weights, codes)
        q = logits.softmax(dim=1)
        divergence = torch.sum(q * torch.log(q * self.n_embed + 1e-10), dim=1)
        return z_q, divergence, weights.argmax(dim=1), logits

    def _draw(self, z: Tensor, tau: float, hard: bool) -> tuple[Tensor, ...]:
        kept = slice(None) if self.remap is None else self.used
        weight, bias = self.proj.weight.flatten(1)[kept], self.proj.bias[kept]
        codes = self.embed.weight[kept]
        z_q, divergence, indices = draw_codes(z.movedim(1, -1), weight, bias, codes, tau, hard)
        # As there, K counts the codes that a remap leaves out.
        divergence = divergence + math.log(self.n_embed / len(codes))
        return z_q.to(z.dtype).movedim(-1, 1).contiguous(), divergence, indices

    def _num_codes(self) -> int:
        return self.n_embed
