"""The shapes that latents come in, as rows and heads, without copies where strides allow it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...quantizers.checks import check_tensor
from .options import require


@dataclass(frozen=True)
class Layout:
    """Between (B, ..., D) or (B, D, ...), rows (B, n, D), and heads (H, ..., d).

    Heads with one codebook are (1, B, heads, n, d), or (1, B, n, D) if there is but one; with a
    codebook each they are (heads, B, n, d).
    """

    dim: int
    channel_first: bool
    heads: int
    separate: bool

    def to_rows(self, x: Tensor) -> Tensor:
        """Latents (B, ..., D), or (B, D, ...) with channel_first, or (B, D), as rows (B, n, D).

        Raises:
            ValueError: x has another shape.
        """
        check_latents(x, self.dim, self.channel_first)
        if x.ndim == 2:
            return x.unsqueeze(1)
        return x.flatten(2).transpose(1, 2) if self.channel_first else x.flatten(1, -2)

    def from_rows(self, rows: Tensor, x: Tensor) -> Tensor:
        """Rows (B, n, D) in the shape that x came in."""
        if x.ndim == 2:
            return rows.squeeze(1)
        if self.channel_first:
            return rows.transpose(1, 2).unflatten(2, x.shape[2:])
        return rows.unflatten(1, x.shape[1:-1])

    def indices_from_rows(self, indices: Tensor, x: Tensor) -> Tensor:
        """Indices (B, n) or (B, n, heads) with the positions of x in place of n."""
        if x.ndim == 2:
            return indices.squeeze(1)
        return indices.unflatten(1, x.shape[2:] if self.channel_first else x.shape[1:-1])

    def indices_to_rows(self, indices: Tensor, rows: Tensor) -> Tensor:
        """Indices (B, ...) or (B, ..., heads) of rows (B, n, D), as (B, n) or (B, n, heads).

        Raises:
            ValueError: they have another shape.
        """
        heads = () if self.heads == 1 else (self.heads,)
        shape = (*rows.shape[:2], *heads)
        fits = indices.ndim >= len(shape) and indices.shape[indices.ndim - len(heads) :] == heads
        fits = fits and len(indices) == len(rows) and indices.numel() == math.prod(shape)
        form = "(B, n)" if self.heads == 1 else "(B, n, heads)"
        require(fits, f"indices must be {form} = {shape}, got {tuple(indices.shape)}")
        return indices.reshape(shape)

    def split_heads(self, rows: Tensor) -> Tensor:
        """Rows (B, n, D) as heads (H, ..., d), as the class says."""
        if self.heads == 1:
            return rows.unsqueeze(0)
        split = rows.unflatten(-1, (self.heads, -1))
        return split.permute(2, 0, 1, 3) if self.separate else split.transpose(1, 2).unsqueeze(0)

    def join_heads(self, vectors: Tensor) -> Tensor:
        """What `split_heads` made, as rows (B, n, D)."""
        if self.heads == 1:
            return vectors[0]
        split = vectors.permute(1, 2, 0, 3) if self.separate else vectors[0].transpose(1, 2)
        return split.flatten(2)

    def split_index_heads(self, indices: Tensor) -> Tensor:
        """Indices (B, n) or (B, n, heads), one for each vector of `split_heads`."""
        if self.heads == 1:
            return indices.unsqueeze(0)
        if self.separate:
            return indices.permute(2, 0, 1)
        return indices.transpose(1, 2).unsqueeze(0)

    def join_index_heads(self, indices: Tensor) -> Tensor:
        """What `split_index_heads` made, as (B, n), or (B, n, heads) of several heads."""
        if self.heads == 1:
            return indices[0]
        return indices.permute(1, 2, 0) if self.separate else indices[0].transpose(1, 2)

    def split_mask(self, mask: Tensor) -> Tensor:
        """A mask (B, n) for each vector of `split_heads`."""
        if self.heads == 1:
            return mask.unsqueeze(0)
        if self.separate:
            return mask.expand(self.heads, *mask.shape)
        return mask.unsqueeze(1).expand(-1, self.heads, -1).unsqueeze(0)


def check_latents(x: Tensor, dim: int, channel_first: bool) -> None:
    """ValueError unless x is (B, ..., dim), or (B, dim, ...) with channel_first; TypeError if it is
    no tensor."""
    check_tensor("x", x)
    form = "(B, dim, ...)" if channel_first else "(B, ..., dim)"
    require(
        x.ndim >= 2 and x.shape[1 if channel_first else -1] == dim,
        f"x must be {form} with dim = {dim}, got {tuple(x.shape)}",
    )


def check_mask(rows: Tensor, mask: Tensor | None, lens: Tensor | None = None) -> Tensor | None:
    """The mask (B, n) bool of rows (B, n, D), given as it is or by lengths (B,).

    Raises:
        ValueError: both are given, or the mask does not fit the rows.
    """
    require(mask is None or lens is None, "mask and lens exclude each other")
    if lens is not None:
        mask = torch.arange(rows.shape[1], device=lens.device) < lens[:, None]
    if mask is not None:
        shape = tuple(rows.shape[:2])
        require(
            mask.shape == shape and mask.dtype == torch.bool,
            f"mask must be bool of shape {shape}, got {mask.dtype} of {tuple(mask.shape)}",
        )
    return mask
