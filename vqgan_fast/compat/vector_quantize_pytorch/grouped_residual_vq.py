"""GroupedResidualVQ of vector-quantize-pytorch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...quantizers.checks import check_tensor
from .options import check_sizes, refuse, require
from .residual_vq import ResidualVQ, draw_seed_of_all_ranks


class GroupedResidualVQ(nn.Module):
    """A ResidualVQ for each of several groups of channels (Yang et al., 2023, "HiFi-Codec").

    A drop-in for `vector_quantize_pytorch.GroupedResidualVQ`.

    Args:
        dim: the length of a latent, a multiple of groups.
        groups: G.
        accept_image_fmap: latents are (B, dim, H, W).
        kwargs: arguments of each group's `ResidualVQ`.
    """

    def __init__(
        self, *, dim: int, groups: int = 1, accept_image_fmap: bool = False, **kwargs: Any
    ) -> None:
        super().__init__()
        check_sizes(dim=dim, groups=groups)
        require(dim % groups == 0, f"dim must be a multiple of groups = {groups}, got {dim}")
        self.dim = dim
        self.groups = groups
        self.accept_image_fmap = accept_image_fmap
        self.rvqs = nn.ModuleList(
            ResidualVQ(dim=dim // groups, accept_image_fmap=accept_image_fmap, **kwargs)
            for _ in range(groups)
        )

    @property
    def codebooks(self) -> Tensor:
        """The codes (G, Q, K, D)."""
        return torch.stack([rvq.codebooks for rvq in self.rvqs])

    @property
    def split_dim(self) -> int:
        return 1 if self.accept_image_fmap else -1

    def get_codes_from_indices(self, indices: Tensor) -> Tensor:
        """The codes (G, Q, B, ..., D) for indices (G, B, ..., q)."""
        self._check_groups(indices)
        return torch.stack(
            [
                rvq.get_codes_from_indices(index)
                for rvq, index in zip(self.rvqs, indices, strict=True)
            ]
        )

    def get_output_from_indices(self, indices: Tensor) -> Tensor:
        """What `forward` makes of latents with these indices, in evaluation, (B, ..., dim)."""
        self._check_groups(indices)
        outputs = [
            rvq.get_output_from_indices(index)
            for rvq, index in zip(self.rvqs, indices, strict=True)
        ]
        return torch.cat(outputs, dim=-1)

    def forward(
        self,
        x: Tensor,
        indices: None = None,
        return_all_codes: bool = False,
        sample_codebook_temp: float | None = None,
        freeze_codebook: bool = False,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Quantises latents; arguments as `ResidualVQ.forward` has them.

        Returns:
            quantised latents in the shape of x; indices (G, B, ..., Q); losses (G, Q); with
            return_all_codes a tuple of the codes (Q, B, ..., D) of each group.
        """
        check_tensor("x", x)
        require(
            x.shape[self.split_dim] == self.dim,
            f"x must have {self.dim} channels in dimension {self.split_dim}, got {tuple(x.shape)}",
        )
        refuse(indices=indices)
        # All groups leave out the same stages.
        seed = draw_seed_of_all_ranks(x.device) if self.training else None
        results = [
            rvq(
                group,
                return_all_codes=return_all_codes,
                mask=mask,
                freeze_codebook=freeze_codebook,
                rand_quantize_dropout_fixed_seed=seed,
            )
            for rvq, group in zip(self.rvqs, x.chunk(self.groups, dim=self.split_dim), strict=True)
        ]
        quantized, *rest = zip(*results, strict=True)
        quantized = torch.cat(quantized, dim=self.split_dim)
        all_indices, losses, *all_codes = rest
        return quantized, torch.stack(all_indices), torch.stack(losses), *all_codes

    def _check_groups(self, indices: Tensor) -> None:
        check_tensor("indices", indices)
        require(
            indices.shape[:1] == (self.groups,),
            f"indices must be (G, B, ..., q) with G = {self.groups}, got {tuple(indices.shape)}",
        )
