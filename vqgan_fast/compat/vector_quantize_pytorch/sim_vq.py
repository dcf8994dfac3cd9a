"""SimVQ of vector-quantize-pytorch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ... import ops
from ...quantizers.checks import check_indices
from .gradients import rotate_to
from .layout import check_latents
from .options import check_sizes


class SimVQ(nn.Module):
    """Quantises by a frozen random codebook that a learned map transforms (Zhu et al., 2024).

    The map, linear by default, gets gradients from all latents, so all codes move with it and none
    is left behind. A drop-in for `vector_quantize_pytorch.SimVQ` (read from release 1.32), with the
    same arguments, results, state-dict keys and gradients; the search is exact.

    Args:
        dim: the length of a latent.
        codebook_size: K.
        codebook_transform: the map, from (K, frozen_codebook_dim) to (K, dim).
        init_fn: a last change of the random codes.
        channel_first: latents are (B, dim, ...) instead of (B, ..., dim).
        rotation_trick: the gradient of the latents, otherwise straight through.
        input_to_quantize_commit_loss_weight: of the part of the loss that moves the latents.
        commitment_weight: of the whole loss.
        frozen_codebook_dim: `dim` by default.
    """

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        codebook_transform: nn.Module | None = None,
        init_fn: Callable[[Tensor], Tensor] = lambda codes: codes,
        channel_first: bool = False,
        rotation_trick: bool = True,
        input_to_quantize_commit_loss_weight: float = 0.25,
        commitment_weight: float = 1.0,
        frozen_codebook_dim: int | None = None,
    ) -> None:
        super().__init__()
        frozen_dim = dim if frozen_codebook_dim is None else frozen_codebook_dim
        check_sizes(dim=dim, codebook_size=codebook_size, frozen_codebook_dim=frozen_dim)
        codes = init_fn(torch.randn(codebook_size, frozen_dim) * frozen_dim**-0.5)
        if codebook_transform is None:
            codebook_transform = nn.Linear(frozen_dim, dim, bias=False)
        self.codebook_size = codebook_size
        self.channel_first = channel_first
        self.rotation_trick = rotation_trick
        self.input_to_quantize_commit_loss_weight = input_to_quantize_commit_loss_weight
        self.commitment_weight = commitment_weight
        self.code_transform = codebook_transform
        self.register_buffer("frozen_codebook", codes)

    @property
    def codebook(self) -> Tensor:
        """The codes in use, (K, dim)."""
        return self.code_transform(self.frozen_codebook)

    def indices_to_codes(self, indices: Tensor) -> Tensor:
        """The codes that indices (B, ...) name, in the shape of the latents.

        An index outside [0, K) is a ValueError, on the CPU.
        """
        check_indices("indices", indices, len(self.frozen_codebook))
        codes = self.code_transform(self.frozen_codebook[indices])
        return codes.movedim(-1, 1) if self.channel_first else codes

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantises latents.

        Args:
            x: (B, ..., dim), or (B, dim, ...) with channel_first.

        Returns:
            quantised latents in the shape of x; indices (B, ...) int64; and the weighted loss,
            mean((e - sg(z))^2) + input_to_quantize_commit_loss_weight mean((z - sg(e))^2), where
            sg stops gradients.

        Raises:
            ValueError: x has another shape.
        """
        codebook = self.codebook
        check_latents(x, codebook.shape[1], self.channel_first)
        latents = x.movedim(1, -1) if self.channel_first else x
        quantized, indices, commitment_loss, codebook_loss = ops.vector_quantize(latents, codebook)
        if self.rotation_trick:
            quantized = rotate_to(latents, quantized.detach())
        loss = codebook_loss + commitment_loss * self.input_to_quantize_commit_loss_weight
        if self.channel_first:
            quantized = quantized.movedim(-1, 1)
        return quantized, indices, loss * self.commitment_weight
