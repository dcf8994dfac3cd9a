"""LlamaGen's quantiser: `tokenizer.tokenizer_image.vq_model.VectorQuantizer` of its repository."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops
from ..quantizers.entropy import entropy_terms
from .adopt import adopt
from .reference_quantizer import check_image, image_of_codes, new_codebook

__all__ = ["SWAPS", "VectorQuantizer"]

# The indices that usage is measured over; the buffer's size is part of the checkpoints.
WINDOW = 65536
TEMPERATURE = 0.01


class VectorQuantizer(nn.Module):
    """Stands in for LlamaGen's `VectorQuantizer`.

    State dict: embedding.weight, and codebook_used (65536,) with show_usage. The entropy loss does
    not hold the N x K distances, and is not computed where its ratio is 0.

    Args:
        n_e: K, the number of codes.
        e_dim: D, the length of a code.
        beta: weight of the commitment loss.
        entropy_loss_ratio: weight of the entropy loss.
        l2_norm: scale latents and codes to length 1.
        show_usage: keep the last 65536 indices and tell which share of the codes they use.
    """

    def __init__(
        self,
        n_e: int,
        e_dim: int,
        beta: float,
        entropy_loss_ratio: float,
        l2_norm: bool,
        show_usage: bool,
    ) -> None:
        super().__init__()
        self.embedding = new_codebook(n_e, e_dim)
        self.n_e = n_e
        self.e_dim = e_dim
        self.beta = beta
        self.entropy_loss_ratio = entropy_loss_ratio
        self.l2_norm = l2_norm
        self.show_usage = show_usage
        if l2_norm:
            self.embedding.weight.data = F.normalize(self.embedding.weight.data, dim=-1)
        if show_usage:
            self.register_buffer("codebook_used", torch.zeros(WINDOW))

    def forward(
        self, z: Tensor
    ) -> tuple[Tensor, tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | int], tuple]:
        """Quantises latents z (B, D, H, W).

        Returns:
            z_q (B, D, H, W); (codebook loss, beta times commitment loss, ratio times entropy loss,
            usage), in eval mode (None, None, None, 0); (None, None, indices (B H W,)). Usage is a
            scalar tensor, so that the host need not wait for it.
        """
        check_image(z, self.e_dim)
        codebook = self._codes()
        rows = z.movedim(1, -1)
        if self.l2_norm:
            rows = F.normalize(rows, dim=-1)
        z_q, indices, commitment, codebook_loss = ops.vector_quantize(rows, codebook)
        flat = indices.flatten()
        losses = (None, None, None, 0)
        if self.training:
            usage = self._observe(flat) if self.show_usage else 0
            losses = (codebook_loss, self.beta * commitment, self._entropy(rows, codebook), usage)
        return z_q.movedim(-1, 1).contiguous(), losses, (None, None, flat)

    def get_codebook_entry(
        self, indices: Tensor, shape: Sequence[int] | None = None, channel_first: bool = True
    ) -> Tensor:
        """The codes of indices.

        Args:
            indices: (B H W,) integers.
            shape: (B, C, H, W), or without channel_first (B, H, W, C) or any other sizes (..., C)
                of all codes, of which one may be -1; None keeps (B H W, C).

        Raises:
            ValueError: an index out of range, on the CPU; a shape that does not fit.
        """
        codebook = self._codes()
        if channel_first or shape is None:
            return image_of_codes(indices, codebook, shape, "BCHW")
        codes = image_of_codes(indices, codebook, None)
        rest, unknown = math.prod(n for n in shape if n != -1), list(shape).count(-1)
        width_fits = len(shape) > 0 and shape[-1] in (-1, codebook.shape[1])
        whole = unknown == 1 and rest > 0 and codes.numel() % rest == 0
        if not width_fits or not (whole or (unknown == 0 and rest == codes.numel())):
            raise ValueError(
                f"shape must be (B, H, W, C) with B H W = {indices.numel()} and C = "
                f"{codebook.shape[1]}, got {tuple(shape)}"
            )
        return codes.view(tuple(shape))

    def _codes(self) -> Tensor:
        weight = self.embedding.weight
        return F.normalize(weight, dim=-1) if self.l2_norm else weight

    def _entropy(self, rows: Tensor, codebook: Tensor) -> Tensor:
        if self.entropy_loss_ratio == 0:
            return rows.new_zeros((), dtype=torch.promote_types(rows.dtype, torch.float32))
        sample_entropy, average_entropy = entropy_terms(rows, codebook, TEMPERATURE)
        return self.entropy_loss_ratio * (sample_entropy - average_entropy)

    @torch.no_grad()
    def _observe(self, indices: Tensor) -> Tensor:
        """Appends indices to the window, the last 65536 of them if there are more."""
        recent = indices[-WINDOW:]
        kept = self.codebook_used[len(recent) :].clone()
        self.codebook_used[: len(kept)] = kept
        self.codebook_used[len(kept) :] = recent.to(self.codebook_used.dtype)
        # Different values, not a table of codes: in bf16 the buffer rounds 16383 to 16384.
        ordered = self.codebook_used.sort().values
        return (1 + (ordered[1:] != ordered[:-1]).sum()) / self.n_e


def _swap(peer: nn.Module) -> nn.Module:
    return adopt(VectorQuantizer, peer, ("entropy_loss_ratio", "l2_norm", "show_usage"))


SWAPS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "tokenizer.tokenizer_image.vq_model.VectorQuantizer": _swap,
}
