"""The quantisers of transformers' image tokenisers, and the searches of its audio codecs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops
from ..quantizers.checks import check_indices
from . import audio_codecs
from .adopt import adopt
from .audio_codecs import (
    DacVectorQuantize,
    EncodecEuclideanCodebook,
    MimiEuclideanCodebook,
    XcodecEuclideanCodebook,
)
from .reference_quantizer import new_codebook, quantize_image

__all__ = [
    "SWAPS",
    "ChameleonVQVAEVectorQuantizer",
    "DacVectorQuantize",
    "Emu3VQVAEVectorQuantizer",
    "EncodecEuclideanCodebook",
    "GlmImageVQVAEVectorQuantizer",
    "JanusVQVAEVectorQuantizer",
    "MimiEuclideanCodebook",
    "XcodecEuclideanCodebook",
]


class ChameleonVQVAEVectorQuantizer(nn.Module):
    """Stands in for `ChameleonVQVAEVectorQuantizer`. State dict: embedding.weight.

    Args:
        config: num_embeddings (K), embed_dim (D), beta (weight of the codebook loss, .25 if
            absent).
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.num_embeddings = config.num_embeddings
        self.embedding_dim = config.embed_dim
        self.beta = getattr(config, "beta", 0.25)
        self.embedding = nn.Embedding(self.num_embeddings, self.embedding_dim)

    def forward(self, hidden_state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z_q (B, D, H, W), the loss, indices (B H W,) of hidden_state (B, D, H, W)."""
        z_q, commitment, codebook_loss, indices = quantize_image(*self._compared(hidden_state))
        return z_q, commitment + self.beta * codebook_loss, indices.flatten()

    def _compared(self, hidden_state: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (B, D, H, W) and codes (K, D) whose distances count."""
        return hidden_state, self.embedding.weight


class GlmImageVQVAEVectorQuantizer(ChameleonVQVAEVectorQuantizer):
    """Stands in for `GlmImageVQVAEVectorQuantizer`. State dict: embedding.weight.

    Latents and codes are scaled to length 1, and so are the quantised latents.

    Args:
        config: as Chameleon's.
    """

    def _compared(self, hidden_state: Tensor) -> tuple[Tensor, Tensor]:
        return F.normalize(hidden_state, dim=1), F.normalize(self.embedding.weight, dim=-1)


class JanusVQVAEVectorQuantizer(ChameleonVQVAEVectorQuantizer):
    """Stands in for `JanusVQVAEVectorQuantizer`. State dict: embedding.weight.

    Args:
        config: as Chameleon's, and num_patches, the side of the grid of codes.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.quant_state_dims = [config.num_patches] * 2

    def get_codebook_entry(self, image_tokens: Tensor) -> Tensor:
        """The codes of image_tokens (B, P P), scaled to length 1: (B, D, P, P).

        Raises:
            ValueError: a token out of range, on the CPU; another number of them.
        """
        height, width = self.quant_state_dims
        if image_tokens.shape[1:].numel() != height * width:
            raise ValueError(
                f"image_tokens must be (B, P P) with P P = {height * width}, got "
                f"{tuple(image_tokens.shape)}"
            )
        check_indices("image_tokens", image_tokens, self.num_embeddings)
        codes = F.normalize(self.embedding(image_tokens), dim=-1)
        codes = codes.view(len(image_tokens), height, width, codes.shape[-1])
        return codes.permute(0, 3, 1, 2).contiguous()


class Emu3VQVAEVectorQuantizer(nn.Module):
    """Stands in for `Emu3VQVAEVectorQuantizer`, which only searches. State dict: embedding.weight.

    Args:
        config: codebook_size (K), embed_dim (D).
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.embedding = new_codebook(config.codebook_size, config.embed_dim, "embed_dim")

    @torch.no_grad()
    def forward(self, hidden_state: Tensor) -> Tensor:
        """Indices (B, T, H, W) of hidden_state (B, T, D, H, W)."""
        rows = hidden_state.movedim(2, -1)
        return ops.nearest_code(rows, self.embedding.weight, return_distance=False)


def _swap_chameleon(peer: nn.Module) -> nn.Module:
    return adopt(ChameleonVQVAEVectorQuantizer, peer, ("beta", "embedding"))


def _swap_glm_image(peer: nn.Module) -> nn.Module:
    return adopt(GlmImageVQVAEVectorQuantizer, peer, ("beta", "embedding"))


def _swap_janus(peer: nn.Module) -> nn.Module:
    return adopt(JanusVQVAEVectorQuantizer, peer, ("beta", "embedding", "quant_state_dims"))


def _swap_emu3(peer: nn.Module) -> nn.Module:
    return adopt(Emu3VQVAEVectorQuantizer, peer, ("embedding",))


_MODELS = "transformers.models"
SWAPS: dict[str, Callable[[nn.Module], nn.Module]] = {
    f"{_MODELS}.chameleon.modeling_chameleon.ChameleonVQVAEVectorQuantizer": _swap_chameleon,
    f"{_MODELS}.glm_image.modeling_glm_image.GlmImageVQVAEVectorQuantizer": _swap_glm_image,
    f"{_MODELS}.janus.modeling_janus.JanusVQVAEVectorQuantizer": _swap_janus,
    f"{_MODELS}.emu3.modeling_emu3.Emu3VQVAEVectorQuantizer": _swap_emu3,
    **audio_codecs.SWAPS,
}
