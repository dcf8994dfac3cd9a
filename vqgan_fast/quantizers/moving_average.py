"""A codebook that follows its latents (van den Oord et al. 2017, appendix A.1)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .. import ops
from .base import Quantizer, QuantizerInfo
from .checks import check_number
from .dead_codes import restart_dead_codes
from .ranks import draw_rows, sum_over_ranks


@torch.no_grad()
def update_averages(
    codebook: Tensor,
    cluster_size: Tensor,
    embed_avg: Tensor,
    z: Tensor,
    indices: Tensor,
    decay: float,
    eps: float,
) -> None:
    """One step of the moving averages and of the codebook, in place, the same on all ranks.

        cluster_size = decay * cluster_size + (1 - decay) * counts
        embed_avg = decay * embed_avg + (1 - decay) * sums
        codebook = embed_avg / ((cluster_size + eps) / (n + K eps) n),   n = sum of cluster_size

    A latent with a NaN or an infinity, which has no nearest code, takes no part: in an average it
    would stay for ever. Where nothing is left in the averages, codes stay as they are.

    Args:
        codebook, embed_avg: (K, D).
        cluster_size: (K,).
        z: this rank's latents (..., D); counts and sums are taken over all ranks.
        indices: (...) int64, their codes.
    """
    z, num_codes = z.detach(), len(codebook)
    # Such latents are counted as code K, which is dropped: no copy of z, and no wait for a device.
    finite = torch.linalg.vector_norm(z, math.inf, dim=-1).isfinite()
    stats = ops.codebook_stats(z, indices.where(finite, num_codes), num_codes + 1)
    counts, sums = (sum_over_ranks(stat[:num_codes]) for stat in stats)
    cluster_size.mul_(decay).add_(counts.to(cluster_size.dtype), alpha=1 - decay)
    embed_avg.mul_(decay).add_(sums.to(embed_avg.dtype), alpha=1 - decay)
    n = cluster_size.sum()
    smoothed = ((cluster_size + eps) / (n + num_codes * eps) * n).unsqueeze(1)
    codebook.copy_((embed_avg / smoothed).where(smoothed > 0, codebook))


class HoldsAverages(nn.Module):
    """Keeps its `averages` in fp32 where the module is converted to half precision.

    A step adds some hundredths to a count, which bf16 cannot hold beside a count of some tens: the
    averages would stand still.
    """

    averages = ("cluster_size", "embed_avg")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> HoldsAverages:
        before = {name: getattr(self, name).detach() for name in self.averages}
        super()._apply(fn, recurse)
        for name, wide in before.items():
            tensor = getattr(self, name)
            if tensor.dtype.itemsize < min(wide.dtype.itemsize, 4):
                tensor.data = wide.to(tensor.device, torch.float32)
        return self


class EMAVectorQuantizer(HoldsAverages, Quantizer):
    """Codes are moving averages of the latents that chose them; no gradient reaches them.

    Every forward pass in training mode moves the codebook, after the latents have been quantised.
    Counts and sums are taken over all ranks of the default process group and added in a fixed
    order, so all ranks hold the same codebook to the bit. Latents with a NaN or an infinity are
    left out of the averages. These stay in fp32 when the module is converted to half precision.

    Args:
        codebook_size, e_dim: as `Quantizer`.
        beta: weight of the commitment loss, which is the whole loss.
        legacy: without effect; there is only one term. Taken so that quantisers are exchangeable.
        decay: share of the averages that a step keeps.
        eps: added to each cluster size (Laplace smoothing).
        restart_below: a code whose moving average of uses a step falls below this is moved onto a
            latent of the current batch of all ranks, the same one on all of them and on one rank
            with the whole batch; 0 never restarts one. The host waits for the device to learn
            which.

    Raises:
        ValueError: an argument that cannot work, named.
    """

    def __init__(
        self,
        codebook_size: int = 1024,
        e_dim: int = 256,
        beta: float = 0.25,
        legacy: bool = False,
        decay: float = 0.99,
        eps: float = 1e-5,
        restart_below: float = 0.0,
    ) -> None:
        super().__init__(codebook_size, e_dim, beta, legacy)
        for name, number in (("decay", decay), ("eps", eps), ("restart_below", restart_below)):
            check_number(name, number)
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {decay}")
        if eps <= 0:
            raise ValueError(f"eps must be positive, got {eps}")
        if restart_below < 0:
            raise ValueError(f"restart_below must not be negative, got {restart_below}")
        self.decay = decay
        self.eps = eps
        self.restart_below = restart_below
        self.embedding = nn.Embedding(codebook_size, e_dim)
        self.embedding.weight.requires_grad_(False)
        # As if each code had been used once: the codebook is the quotient of the averages.
        self.register_buffer("cluster_size", torch.ones(codebook_size))
        self.register_buffer("embed_avg", self.embedding.weight.detach().clone())
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @property
    def codebook(self) -> Tensor:
        """The codes (K, D)."""
        return self.embedding.weight

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, QuantizerInfo]:
        self._check_latents(z)
        # The graph keeps the codes that were compared with, because the update is in place.
        codebook = self.codebook.detach()
        if self.training and z.requires_grad:
            codebook = codebook.clone()
        z_q, _, info = self._quantize(z, codebook)
        if self.training:
            self._update(z.detach().movedim(1, -1), info.indices)
        return z_q, self.beta * info.commitment_loss, info

    def extra_repr(self) -> str:
        return f"beta={self.beta}, decay={self.decay}, restart_below={self.restart_below}"

    @torch.no_grad()
    def _update(self, rows: Tensor, indices: Tensor) -> None:
        averages = self.codebook, self.cluster_size, self.embed_avg
        update_averages(*averages, rows, indices, self.decay, self.eps)
        self.updates += 1
        if self.restart_below > 0:
            self._restart(rows.flatten(0, -2))

    def _restart(self, rows: Tensor) -> None:
        dead = self.cluster_size < self.restart_below
        if not dead.any():
            return
        # The draws depend on the number of updates and of all latents alone: ranks agree, and so do
        # a resumed run and another number of ranks with the same batch.
        seed = int(self.updates)
        latents = draw_rows(rows, self.codebook_size, torch.Generator().manual_seed(seed))
        generator = torch.Generator().manual_seed(seed)
        replaced = restart_dead_codes(self.codebook, dead, latents, generator)
        self.cluster_size[replaced] = self.restart_below
        codes = self.codebook[replaced].to(self.embed_avg.dtype)  # averages may be wider
        self.embed_avg[replaced] = self.restart_below * codes
