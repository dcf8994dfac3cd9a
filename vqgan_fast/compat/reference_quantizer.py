"""What the quantisers of taming and diffusers have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops
from ..quantizers.checks import check_indices, check_integer, check_tensor
from .remap import RemapsIndices


def quantize_image(z: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The nearest codes of an image of latents.

    Args:
        z: (B, D, H, W).
        codebook: (K, D).

    Returns:
        z_q (B, D, H, W), contiguous, in z's dtype, straight-through; commitment and codebook loss,
        scalars; indices (B, H, W) int64.
    """
    check_image(z, codebook.shape[1])
    z_q, indices, commitment, codebook_loss = ops.vector_quantize(z.movedim(1, -1), codebook)
    return z_q.movedim(-1, 1).contiguous(), commitment, codebook_loss, indices


def check_image(z: Tensor, dim: int) -> None:
    """ValueError unless latents are (B, D, H, W) with D = `dim`; TypeError if no tensor."""
    check_tensor("z", z)
    if z.ndim != 4 or z.shape[1] != dim:
        raise ValueError(f"z must be (B, D, H, W) with D = {dim}, got {tuple(z.shape)}")


def image_of_codes(
    indices: Tensor,
    codebook: Tensor,
    shape: Sequence[int] | None,
    form: str = "BHWC",
) -> Tensor:
    """The codes that indices name, as an image if there is a shape.

    Args:
        indices: B H W of them, in any shape.
        codebook: (K, C).
        shape: the sizes of the image, in the order of `form`, "BHWC" or "BCHW"; or None.

    Returns:
        (B, C, H, W); for None (..., C) as indices are (...).

    Raises:
        ValueError: an index outside [0, K), on the CPU; a shape that does not fit.
    """
    check_indices("indices", indices, len(codebook))
    codes = F.embedding(indices, codebook)
    if shape is None:
        return codes
    sizes = dict(zip(form, shape, strict=False))
    fits = len(shape) == len(form) and sizes["C"] == codebook.shape[1]
    if not fits or math.prod(sizes[axis] for axis in "BHW") != indices.numel():
        raise ValueError(
            f"shape must be ({', '.join(form)}) with B H W = {indices.numel()} and C = "
            f"{codebook.shape[1]}, got {tuple(shape)}"
        )
    return codes.view([sizes[axis] for axis in "BHWC"]).permute(0, 3, 1, 2).contiguous()


def new_codebook(num_codes: int, dim: int, dim_name: str = "e_dim") -> nn.Embedding:
    """The reference's codebook: K codes from U(-1/K, 1/K)."""
    check_integer("n_e", num_codes)
    check_integer(dim_name, dim)
    embedding = nn.Embedding(num_codes, dim)
    nn.init.uniform_(embedding.weight, -1 / num_codes, 1 / num_codes)
    return embedding


class RemappingQuantizer(RemapsIndices):
    """taming's VectorQuantizer2 and diffusers' VectorQuantizer, up to the name of an argument.

    State dict: embedding.weight, and used with a remap. See the subclasses for the arguments.
    """

    def __init__(
        self,
        n_e: int,
        dim: int,
        beta: float,
        remap: Any,
        unknown_index: str | int,
        sane_index_shape: bool,
        legacy: bool,
    ) -> None:
        super().__init__()
        self.embedding = new_codebook(n_e, dim)
        self.n_e = n_e
        self.beta = beta
        self.legacy = legacy
        self.sane_index_shape = sane_index_shape
        self.set_remap(remap, unknown_index, n_e)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, tuple[None, None, Tensor]]:
        """z_q (B, D, H, W), the loss, and (None, None, indices) of latents z (B, D, H, W).

        Indices are (B H W,), (B H W, 1) with a remap, (B, H, W) with sane_index_shape.
        """
        z_q, commitment, codebook_loss, indices = quantize_image(z, self.embedding.weight)
        if self.legacy:
            loss = commitment + self.beta * codebook_loss
        else:
            loss = self.beta * commitment + codebook_loss
        shape = indices.shape if self.sane_index_shape else (-1,)
        if self.remap is not None:
            indices = self.remap_to_used(indices)
            shape = shape if self.sane_index_shape else (-1, 1)
        return z_q, loss, (None, None, indices.reshape(shape))

    def get_codebook_entry(self, indices: Tensor, shape: Sequence[int] | None) -> Tensor:
        """The codes of indices: (B, C, H, W) for a shape (B, H, W, C), else with a last axis C.

        Raises:
            ValueError: an index out of range, on the CPU; a shape that does not fit.
        """
        if self.remap is not None:
            check_indices("indices", indices, self.re_embed)
            indices = self.unmap_to_all(indices.reshape(-1))
        return image_of_codes(indices, self.embedding.weight, shape)

    def _num_codes(self) -> int:
        return self.n_e
