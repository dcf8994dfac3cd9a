"""Definitions, with all N x K distances, of two quantisers that no installable package holds."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DenseLlamaGen(nn.Module):
    """LlamaGen's quantiser: the entropy loss always dense, usage over a window of 65536."""

    def __init__(
        self, n_e: int, e_dim: int, beta: float, entropy_loss_ratio: float, l2_norm: bool,
        show_usage: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.beta, self.ratio, self.l2_norm = beta, entropy_loss_ratio, l2_norm
        self.embedding = nn.Embedding(n_e, e_dim)
        if show_usage:
            self.register_buffer("codebook_used", torch.zeros(65536))

    def forward(self, z: Tensor) -> tuple:
        codes, rows = self.embedding.weight, z.permute(0, 2, 3, 1)
        if self.l2_norm:
            codes, rows = F.normalize(codes, dim=1), F.normalize(rows, dim=3)
        flat = rows.reshape(-1, rows.shape[-1])
        distance = (flat[:, None] - codes).square().sum(2)
        indices = distance.argmin(1)
        chosen = codes[indices].view(rows.shape)
        losses = (None, None, None, 0)
        if self.training:
            p = (-distance / 0.01).softmax(1)
            sample = -(p * (-distance / 0.01).log_softmax(1)).sum(1).mean()
            average = -(p.mean(0) * (p.mean(0) + 1e-5).log()).sum()
            usage = 0
            if hasattr(self, "codebook_used"):
                seen = torch.cat([self.codebook_used, indices.float()])[-65536:]
                self.codebook_used.copy_(seen)
                usage = len(seen.unique()) / len(codes)
            losses = (
                (chosen - rows.detach()).square().mean(),
                self.beta * (chosen.detach() - rows).square().mean(),
                self.ratio * (sample - average),
                usage,
            )
        z_q = rows + (chosen - rows).detach()
        return z_q.permute(0, 3, 1, 2).contiguous(), losses, (None, None, indices)


class DenseEMA(nn.Module):
    """The reference's moving-average quantiser, as it would be if it could be constructed."""

    def __init__(
        self, n_embed: int, embedding_dim: int, beta: float, decay: float = 0.99, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.beta, self.decay, self.eps = beta, decay, eps
        self.embedding = nn.Module()
        weight = torch.randn(n_embed, embedding_dim)
        state = {
            "weight": weight,
            "cluster_size": torch.zeros(n_embed),
            "embed_avg": weight.clone(),
        }
        for name, value in state.items():
            self.embedding.register_parameter(name, nn.Parameter(value, requires_grad=False))

    def forward(self, z: Tensor) -> tuple:
        state = self.embedding
        rows = z.permute(0, 2, 3, 1)
        flat = rows.reshape(-1, rows.shape[-1])
        indices = (flat[:, None] - state.weight).square().sum(2).argmin(1)
        one_hot = F.one_hot(indices, len(state.weight)).to(z.dtype)
        chosen = state.weight[indices].view(rows.shape)
        share = one_hot.mean(0)
        perplexity = (-(share * (share + 1e-10).log()).sum()).exp()
        if self.training:
            with torch.no_grad():
                old = 1 - self.decay
                state.cluster_size.mul_(self.decay).add_(one_hot.sum(0), alpha=old)
                state.embed_avg.mul_(self.decay).add_(one_hot.T @ flat, alpha=old)
                total = state.cluster_size.sum()
                smoothed = (state.cluster_size + self.eps) / (total + len(share) * self.eps)
                smoothed = smoothed * total
                state.weight.copy_(state.embed_avg / smoothed[:, None])
        loss = self.beta * (chosen - rows).square().mean()
        z_q = rows + (chosen - rows).detach()
        return z_q.permute(0, 3, 1, 2).contiguous(), loss, (perplexity, one_hot, indices)
