"""The quantiser with Gumbel-softmax draws (Jang et al., "Categorical reparameterization with
Gumbel-softmax", 2017; DALL-E, and one of the VQGANs of Esser et al. 2021)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops
from .base import CodebookQuantizer, QuantizerInfo
from .checks import check_integer, check_latents, check_number


def draw_codes(
    z: Tensor,
    weight: Tensor,
    bias: Tensor,
    codes: Tensor,
    temperature: float,
    hard: bool,
    seed: Tensor | int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draws a code for each latent, without the N x K matrix of logits (`ops.soft_assign`).

    The formulas are those of `GumbelQuantizer`, with logits[n, k] = weight[k] . z[n] + bias[k].

    Args:
        z: (..., C).
        weight, bias: (K, C) and (K,).
        codes: (K, D).
        temperature: of the relaxation.
        hard: one code each in value, straight through; else the mean under y.
        seed: of the noise, as `ops.soft_assign` takes it; drawn from torch's generator if not
            given.

    Returns:
        z_q (..., D), KL(softmax(logits) || uniform) (...), and indices (...).
    """
    if seed is None:
        seed = torch.randint(2**63 - 1, (), device=z.device)
    relaxed = not hard or torch.is_grad_enabled()
    logits = {"metric": "dot", "bias": bias}
    drawn = ops.soft_assign(
        z,
        weight,
        outputs=("indices", "expected") if relaxed else ("indices",),
        temperature=temperature,
        # With a hard draw, a code's gradient is that of the latents which chose it.
        values=(codes.detach() if hard else codes) if relaxed else None,
        seed=seed,
        **logits,
    )
    z_q = drawn.expected
    if hard:
        z_q = F.embedding(drawn.indices, codes)
        if relaxed:
            z_q = z_q + (drawn.expected - drawn.expected.detach())
    # sum_k q log(K q) = log K - entropy
    entropy = ops.soft_assign(z, weight, outputs=("entropy",), **logits).entropy
    return z_q, math.log(len(codes)) - entropy, drawn.indices


class GumbelQuantizer(CodebookQuantizer):
    """Draws a code for each latent from logits that are linear in it.

        logits[n, k] = proj.weight[k] . z[n] + proj.bias[k]
        y[n] = softmax_k((logits[n, k] + g[n, k]) / temperature),   g standard Gumbel noise
        index[n] = argmax_k y[n, k], a draw from softmax(logits[n])
        z_q[n] = embed.weight[index[n]] in value, with the gradient of sum_k y[n, k] embed.weight[k]
                 in y: straight through. While training with straight_through=False it is that sum
        loss = kl_weight * mean over n of KL(softmax(logits[n]) || uniform)

    Neither logits nor probabilities are held: memory is O(N (in_channels + e_dim)) beyond the
    parameters (`ops.soft_assign`). As in the reference, `forward` draws in evaluation as well;
    `encode` does not. Parameters have the reference's names and shapes.

    Args:
        codebook_size: K.
        e_dim: D, the length of a code.
        in_channels: of the latents; e_dim if not given.
        straight_through: see above.
        kl_weight: see above.
        temperature: a plain attribute, which a schedule may set.

    Raises:
        ValueError: an argument that cannot work, named.
    """

    def __init__(
        self,
        codebook_size: int = 8192,
        e_dim: int = 256,
        in_channels: int | None = None,
        straight_through: bool = True,
        kl_weight: float = 5e-4,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(codebook_size, e_dim)
        in_channels = e_dim if in_channels is None else in_channels
        check_integer("in_channels", in_channels)
        check_number("kl_weight", kl_weight)
        check_number("temperature", temperature)
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.in_channels = in_channels
        self.straight_through = straight_through
        self.kl_weight = kl_weight
        self.temperature = temperature
        self.proj = nn.Conv2d(in_channels, codebook_size, 1)
        self.embed = nn.Embedding(codebook_size, e_dim)

    @property
    def codebook(self) -> Tensor:
        """The codes (K, D): the parameter itself."""
        return self.embed.weight

    def forward(
        self, z: Tensor, temperature: float | None = None, seed: Tensor | int | None = None
    ) -> tuple[Tensor, Tensor, QuantizerInfo]:
        """Quantises latents.

        Args:
            z: (B, in_channels, H, W), any floating dtype and strides; read in place.
            temperature: instead of the attribute.
            seed: of the noise, as `ops.soft_assign` takes it; drawn from torch's generator if not
                given.

        Returns:
            z_q (B, e_dim, H, W) of z's dtype; the loss, a scalar; QuantizerInfo, whose commitment
            and codebook losses are 0, for this quantiser has none.

        Raises:
            ValueError: z is not (B, in_channels, H, W), or not floating point.
        """
        check_latents(z, "C", self.in_channels)
        z_q, divergence, indices = draw_codes(
            z.movedim(1, -1),
            self.proj.weight.flatten(1),
            self.proj.bias,
            self.embed.weight,
            self.temperature if temperature is None else temperature,
            hard=self.straight_through or not self.training,
            seed=seed,
        )
        loss = self.kl_weight * divergence.mean()
        zero = loss.new_zeros(())
        info = QuantizerInfo(indices, self._count(indices), zero, zero)
        return z_q.to(z.dtype).movedim(-1, 1).contiguous(), loss, info

    def encode(self, z: Tensor) -> Tensor:
        """Indices (B, H, W) int64 of the most probable codes, without noise."""
        check_latents(z, "C", self.in_channels)
        return ops.soft_assign(
            z.movedim(1, -1),
            self.proj.weight.flatten(1),
            outputs=("indices",),
            metric="dot",
            bias=self.proj.bias,
        ).indices

    def extra_repr(self) -> str:
        return (
            f"straight_through={self.straight_through}, kl_weight={self.kl_weight}, "
            f"temperature={self.temperature}"
        )
