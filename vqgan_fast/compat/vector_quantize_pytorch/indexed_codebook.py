"""What a VectorQuantize does with indices and codes, besides its forward pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...quantizers.checks import check_indices, check_tensor
from .codebook import Codebook
from .layout import Layout, check_mask
from .options import require


class IndexedCodebook(nn.Module):
    """The codebook of a VectorQuantize by its indices: looking codes up, and updating them."""

    dim: int
    heads: int
    separate_codebook_per_head: bool
    channel_last: bool
    accept_image_fmap: bool
    accept_3d_fmap: bool
    has_projections: bool
    project_in: nn.Module
    project_out: nn.Module
    _codebook: Codebook

    @property
    def ema_update(self) -> bool:
        return self._codebook.ema_update

    @property
    def codebook(self) -> Tensor:
        """The codes (K, D), or (heads, K, D) where each has its own."""
        codes = self._codebook.embed
        return codes if self.separate_codebook_per_head else codes[0]

    @codebook.setter
    @torch.no_grad()
    def codebook(self, codes: Tensor) -> None:
        check_tensor("codebook", codes)
        shape = tuple(self.codebook.shape)
        require(
            codes.shape == shape, f"codebook must be of shape {shape}, got {tuple(codes.shape)}"
        )
        self._codebook.embed.copy_(codes if self.separate_codebook_per_head else codes[None])

    @property
    def layout(self) -> Layout:
        channel_first = not self.channel_last or self.accept_image_fmap or self.accept_3d_fmap
        return Layout(self.dim, channel_first, self.heads, self.separate_codebook_per_head)

    def expire_codes_(self, x: Tensor) -> None:
        """Puts dead codes onto rows of x (B, n, heads codebook_dim), if in training."""
        self._codebook.expire_codes_(self.layout.split_heads(x))

    def update_indices(self, x: Tensor, indices: Tensor, mask: Tensor | None = None) -> None:
        """Updates the codebook as if a forward pass had chosen these indices, -1 counting as 0."""
        layout = self.layout
        rows = layout.to_rows(x)
        mask = check_mask(rows, mask)
        latents = self._codebook.transform_input(layout.split_heads(self.project_in(rows)))
        indices = indices.unsqueeze(1) if x.ndim == 2 else indices
        indices = layout.indices_to_rows(indices, rows)
        indices = layout.split_index_heads(indices.clamp(min=0))
        mask = None if mask is None else layout.split_mask(mask)
        self._codebook.update_codebook(latents, indices, mask)

    update_ema_indices = update_indices

    def get_codes_from_indices(self, indices: Tensor) -> Tensor:
        """The codes that indices, as `forward` returns them, name.

        With `vq_bridge` these are the codes that it is given, as in the package, not what `forward`
        quantises by.

        Returns:
            (B, ..., D) or, if latents come so, (B, D, ...). Heads with a codebook each are joined,
            D = heads codebook_dim; those that share one are not: (B, ..., heads, codebook_dim).

        Raises:
            ValueError: an index outside [-1, K), on the CPU; heads with a codebook each, and not
                an index for each of them in the last dimension.
        """
        codes = self._codes(indices)
        return codes.movedim(-1, 1) if self.layout.channel_first else codes

    def get_output_from_indices(self, indices: Tensor) -> Tensor:
        """What `forward` makes of latents with these indices, in evaluation.

        Except with `vq_bridge`, see `get_codes_from_indices`.
        """
        if not self.has_projections:
            return self.get_codes_from_indices(indices)
        codes = self._codes(indices)
        if self.heads > 1 and not self.separate_codebook_per_head:
            codes = codes.flatten(-2)
        out = self.project_out(codes)
        return out.movedim(-1, 1) if self.layout.channel_first else out

    def _codes(self, indices: Tensor) -> Tensor:
        # -1, which `forward` gives what a mask leaves out, is the last code, as there.
        check_indices("indices", indices, self._codebook.embed.shape[1], least=-1)
        if self.heads == 1 or not self.separate_codebook_per_head:
            return self._codebook.embed[0][indices]
        require(
            indices.shape[-1:] == (self.heads,),
            f"indices must have heads = {self.heads} in their last dimension, got "
            f"{tuple(indices.shape)}",
        )
        heads = torch.arange(self.heads, device=indices.device)
        return self._codebook.embed[heads, indices].flatten(-2)
