"""The nearest-code searches of transformers' audio codecs; `compat.transformers` exports them.

Residual stages search many small codebooks in a row. Only the search of each stage is ours: the
loop over stages, and the projections around it, are the peer's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops
from ..quantizers.checks import check_indices
from .adopt import adopt


class _EuclideanCodebook(nn.Module):
    """encode (..., D) -> indices (...), decode indices (...) -> (..., D), for the codes `embed`."""

    embed: Tensor

    def quantize(self, hidden_states: Tensor) -> Tensor:
        """Indices (N,) int64 of the codes nearest to hidden_states (N, D)."""
        return ops.nearest_code(hidden_states, self.embed, return_distance=False)

    def encode(self, hidden_states: Tensor) -> Tensor:
        """Indices (...) int64 of hidden_states (..., D), which are read in place."""
        return ops.nearest_code(hidden_states, self.embed, return_distance=False)

    def decode(self, embed_ind: Tensor) -> Tensor:
        """The codes (..., D) that embed_ind (...) names; a ValueError if there are fewer."""
        check_indices("embed_ind", embed_ind, len(self.embed))
        return F.embedding(embed_ind.to(self.embed.device), self.embed)


class EncodecEuclideanCodebook(_EuclideanCodebook):
    """Stands in for `EncodecEuclideanCodebook`; config: codebook_size, codebook_dim.

    State dict: inited, cluster_size, embed, embed_avg.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.codebook_size = config.codebook_size
        self.register_buffer("inited", torch.ones(1))
        self.register_buffer("cluster_size", torch.zeros(config.codebook_size))
        self.register_buffer("embed", torch.zeros(config.codebook_size, config.codebook_dim))
        self.register_buffer("embed_avg", self.embed.clone())


class XcodecEuclideanCodebook(EncodecEuclideanCodebook):
    """Stands in for `XcodecEuclideanCodebook`; arguments and state as Encodec's."""


class MimiEuclideanCodebook(_EuclideanCodebook):
    """Stands in for `MimiEuclideanCodebook`; config: codebook_size, codebook_dim.

    State dict: initialized, cluster_usage, embed_sum. The codes are the quotient of the last two.
    As in the peer it is formed once; unlike there, formed again after loading or moving the module.
    """

    def __init__(self, config: Any, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.codebook_size = config.codebook_size
        self.epsilon = epsilon
        self.register_buffer("initialized", torch.ones(1))
        self.register_buffer("cluster_usage", torch.ones(config.codebook_size))
        self.register_buffer("embed_sum", torch.zeros(config.codebook_size, config.codebook_dim))
        self._embed: Tensor | None = None

    @property
    def embed(self) -> Tensor:
        """The codes (K, D)."""
        if self._embed is None:
            usage = self.cluster_usage.clamp(min=self.epsilon)
            self._embed = self.embed_sum / usage[:, None]
        return self._embed

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        self._embed = None
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._embed = None


class DacVectorQuantize(nn.Module):
    """Stands in for `DacVectorQuantize`: the code with the largest cosine, between projections.

    State dict: in_proj.*, out_proj.*, codebook.weight. A code that is zero is never nearer than one
    that is not; in the peer it can be, where a latent points away from all others.

    Args:
        config: hidden_size, codebook_size, codebook_dim.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.codebook_dim = config.codebook_dim
        self.in_proj = nn.Conv1d(config.hidden_size, config.codebook_dim, kernel_size=1)
        self.out_proj = nn.Conv1d(config.codebook_dim, config.hidden_size, kernel_size=1)
        self.codebook = nn.Embedding(config.codebook_size, config.codebook_dim)

    def forward(self, hidden_state: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Quantises hidden_state (B, C, T).

        Returns:
            The quantised state (B, C, T); commitment and codebook loss; audio codes (B, T); the
            projected latents (B, D, T).
        """
        projected = self.in_proj(hidden_state)
        codes, indices = self.decode_latents(projected)
        # Codes are chosen by their direction; the losses compare them as they are.
        commitment_loss = F.mse_loss(projected, codes.detach())
        codebook_loss = F.mse_loss(codes, projected.detach())
        quantized = projected + (codes - projected).detach()
        return self.out_proj(quantized), commitment_loss, codebook_loss, indices, projected

    def decode_latents(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        """The codes (B, D, T) nearest in direction to hidden_states (B, D, T), their indices."""
        # The codebook is read before it is called, which is when a hook of accelerate's would load
        # what it has offloaded: so the hook is called here, as the peer's decorator
        # `force_accelerate_hooks` does.
        hook = getattr(self.codebook, "_hf_hook", None)
        if hook is not None:
            hook.pre_forward(self.codebook)
        with torch.no_grad():
            directions = F.normalize(hidden_states, dim=1).transpose(1, 2)
            codebook = F.normalize(self.codebook.weight, dim=1)
            indices = ops.nearest_code(directions, codebook, return_distance=False)
        codes = self.codebook(indices).transpose(1, 2)
        if hook is not None:
            hook.post_forward(self.codebook, ())
        return codes, indices


def _swap_encodec(peer: nn.Module) -> nn.Module:
    return adopt(EncodecEuclideanCodebook, peer, ("embed",))


def _swap_xcodec(peer: nn.Module) -> nn.Module:
    return adopt(XcodecEuclideanCodebook, peer, ("embed",))


def _swap_mimi(peer: nn.Module) -> nn.Module:
    needs = ("embed_sum", "cluster_usage", "epsilon", "_embed")
    module = adopt(MimiEuclideanCodebook, peer, needs)
    # The quotient that it keeps would outlast weights that are loaded before `unpatch`.
    peer._embed = None
    return module


def _swap_dac(peer: nn.Module) -> nn.Module:
    return adopt(DacVectorQuantize, peer, ("in_proj", "out_proj", "codebook", "codebook_dim"))


_MODELS = "transformers.models"
SWAPS: dict[str, Callable[[nn.Module], nn.Module]] = {
    f"{_MODELS}.encodec.modeling_encodec.EncodecEuclideanCodebook": _swap_encodec,
    f"{_MODELS}.mimi.modeling_mimi.MimiEuclideanCodebook": _swap_mimi,
    f"{_MODELS}.dac.modeling_dac.DacVectorQuantize": _swap_dac,
    f"{_MODELS}.xcodec.modeling_xcodec.XcodecEuclideanCodebook": _swap_xcodec,
    # Copies under other names.
    f"{_MODELS}.wavtokenizer.modeling_wavtokenizer.WavTokenizerEuclideanCodebook": _swap_encodec,
    f"{_MODELS}.higgs_audio_v2_tokenizer.modeling_higgs_audio_v2_tokenizer."
    "HiggsAudioV2TokenizerEuclideanCodebook": _swap_xcodec,
}
