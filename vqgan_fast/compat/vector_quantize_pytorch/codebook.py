"""The codebook of a VectorQuantize: its search, and how moving averages keep it up to date."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ...quantizers.precision import without_autocast
from . import search
from .kmeans import kmeans
from .options import check_sizes, require
from .sampling import sample_vectors, sample_vectors_of_all_ranks


class Codebook(nn.Module):
    """Codes (H, K, D) for H heads, or for one that all heads share.

    State: `embed` the codes, a parameter if learned; `cluster_size` (H, K) and `embed_avg`
    (H, K, D), moving averages of how many latents each code had and of their sum; `initted`, False
    until k-means has placed the codes.

    Args:
        dim: D.
        codebook_size: K.
        num_codebooks: H.
        kmeans_init: place the codes by k-means of the first latents that come.
        kmeans_iters: its iterations.
        sync_kmeans: with `synchronize`, k-means and the replacement of codes draw from all ranks.
        decay: share of the old average that is kept at a step.
        eps: Laplace smoothing of cluster sizes.
        threshold_ema_dead_code: codes whose cluster_size falls below are replaced; 0: none.
        synchronize: sum counts and latents over all ranks.
        learnable_codebook: `embed` is a parameter.
        ema_update: codes follow their averages.
        manual_ema_update: but only when `update_ema` is called.
        use_cosine_sim: search by inner product; codes are kept at length 1.
        vq_bridge: a module that makes the codes in use from `embed`.
    """

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        num_codebooks: int = 1,
        kmeans_init: bool = False,
        kmeans_iters: int = 10,
        sync_kmeans: bool = True,
        decay: float = 0.8,
        eps: float = 1e-5,
        threshold_ema_dead_code: float = 2,
        synchronize: bool = False,
        learnable_codebook: bool = False,
        ema_update: bool = True,
        manual_ema_update: bool = False,
        use_cosine_sim: bool = False,
        vq_bridge: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if synchronize and num_codebooks > 1 and kmeans_init:
            raise ValueError(
                "kmeans_init with separate_codebook_per_head works on one process only: "
                "sync_codebook must be False"
            )
        if kmeans_init:
            check_sizes(kmeans_iters=kmeans_iters)
        self.codebook_size = codebook_size
        self.num_codebooks = num_codebooks
        self.kmeans_iters = kmeans_iters
        self.sync_kmeans = sync_kmeans
        self.decay = decay
        self.eps = eps
        self.threshold_ema_dead_code = threshold_ema_dead_code
        self.reset_cluster_size = threshold_ema_dead_code
        self.synchronize = synchronize
        self.learnable_codebook = learnable_codebook
        self.ema_update = ema_update
        self.manual_ema_update = manual_ema_update
        self.use_cosine_sim = use_cosine_sim

        embed = torch.zeros(num_codebooks, codebook_size, dim)
        if not kmeans_init:
            nn.init.kaiming_uniform_(embed)
            if use_cosine_sim:
                embed = search.normalize(embed)
        self.register_buffer("initted", torch.tensor(not kmeans_init))
        self.register_buffer("cluster_size", torch.ones(num_codebooks, codebook_size))
        self.register_buffer("embed_avg", embed.clone())
        if learnable_codebook:
            self.embed = nn.Parameter(embed)
        else:
            self.register_buffer("embed", embed)
        self.vq_bridge = vq_bridge
        # Whether `initted` may be False. The device is asked only where it may, so that a step
        # does not wait for it.
        self._awaits_kmeans = kmeans_init

    def codes(self) -> Tensor:
        """The codes (H, K, D) in use, differentiable if learned."""
        codes = self.embed if self.learnable_codebook else self.embed.detach()
        if self.vq_bridge is None:
            return codes
        # Rounded codes would be others in training under autocast than without it.
        with without_autocast(codes.device):
            return self.vq_bridge(codes)

    def transform_input(self, latents: Tensor) -> Tensor:
        """Latents (H, ..., D) as codes are compared with them: of length 1 for cosines."""
        return search.normalize(latents) if self.use_cosine_sim else latents

    def forward(self, latents: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The code of each latent.

        Args:
            latents: (H, ..., D), of length 1 for cosine similarity.
            mask: (H, ...) bool, where a latent counts for k-means.

        Returns:
            their codes (H, ..., D) in the type of the codebook, and indices (H, ...) int64.
        """
        if self._awaits_kmeans:  # unless a copy of the buffers brought codes that were placed
            self.read_initted()
        if self._awaits_kmeans:
            self.init_embed_(latents, mask)
        codes = self.codes()
        indices = search.nearest(latents, codes, self.use_cosine_sim)
        return search.lookup(codes, indices), indices

    @torch.no_grad()
    def init_embed_(self, latents: Tensor, mask: Tensor | None = None) -> None:
        """Places the codes by k-means of the latents (H, ..., D)."""
        samples = _samples_of_heads(latents, mask)
        if samples.shape[1] < self.codebook_size:
            warnings.warn(
                f"k-means starts with {samples.shape[1]} latents for {self.codebook_size} codes: "
                "some codes will be equal",
                stacklevel=3,
            )
        synchronize = self.synchronize and self.sync_kmeans
        embed, cluster_size = kmeans(
            samples, self.codebook_size, self.kmeans_iters, self.use_cosine_sim, synchronize
        )
        self.embed_avg.copy_(embed * cluster_size.unsqueeze(-1))
        self.cluster_size.copy_(cluster_size)
        self.update_ema()
        # The next call reads it: under torch.func.functional_call it is not the module's own.
        self.initted.fill_(True)

    @torch.no_grad()
    def update_codebook(
        self,
        latents: Tensor,
        indices: Tensor,
        mask: Tensor | None = None,
        ema_update_weight: Tensor | float | Callable[[Tensor, Tensor], Any] | None = None,
        accum_ema_update: bool = False,
        ema_update: bool | None = None,
    ) -> None:
        """A step of the moving averages, then of the codes, then the replacement of dead ones.

        Args:
            latents: (H, ..., D), with their indices (H, ...) and mask (H, ...) bool.
            ema_update_weight: scales the step: a number, (K,) or (H, K), or what makes that of
                the sums (H, K, D) and counts (H, K).
            accum_ema_update: put counts and sums aside, for a later call to add to its own.
            ema_update: instead of the codebook's.

        Raises:
            ValueError: ema_update_weight has another shape.
        """
        ema_update = self.ema_update if ema_update is None else ema_update
        if not ema_update and self.threshold_ema_dead_code <= 0:
            return
        counts, sums = search.statistics(latents, indices, mask, self.codebook_size)
        if self.synchronize:
            dist.all_reduce(counts)
            dist.all_reduce(sums)
        if callable(ema_update_weight):
            ema_update_weight = ema_update_weight(sums, counts)
        if isinstance(ema_update_weight, Tensor):
            ema_update_weight = _one_for_each_code(ema_update_weight, counts)
        if accum_ema_update:
            _put_aside(self.cluster_size, counts)
            _put_aside(self.embed_avg, sums)
            return
        _move_average(self.cluster_size, counts, self.decay, ema_update_weight)
        _move_average(self.embed_avg, sums, self.decay, ema_update_weight)
        if ema_update and not self.manual_ema_update:
            self.update_ema()
        self.expire_codes_(latents, mask)

    @torch.no_grad()
    def update_ema(self) -> None:
        """Each code becomes the mean of its latents, by the moving averages.

        Cluster sizes are smoothed to (size + eps) / (total + K eps) total, so that a code without
        latents is not divided by zero (van den Oord et al., 2017, appendix A.1).
        """
        total = self.cluster_size.sum(-1, keepdim=True)
        smoothed = (self.cluster_size + self.eps) / (total + self.codebook_size * self.eps) * total
        means = self.embed_avg / smoothed.unsqueeze(-1)
        self._writable().copy_(search.normalize(means) if self.use_cosine_sim else means)

    @torch.no_grad()
    def expire_codes_(self, latents: Tensor, mask: Tensor | None = None) -> None:
        """Puts every dead code onto a random one of the latents (H, ..., D), in training.

        Where a head has fewer latents than dead codes, only so many codes are replaced, and the
        others wait for a later step.
        """
        if self.threshold_ema_dead_code <= 0 or not self.training:
            return
        dead = self.cluster_size < self.threshold_ema_dead_code
        if not dead.any():
            return
        latents = self.transform_input(latents).flatten(1, -2)
        for head, (samples, expired) in enumerate(zip(latents, dead, strict=True)):
            if mask is not None:
                samples = samples[mask[head].flatten()]
            replaced = expired.nonzero().flatten()
            if self.synchronize and self.sync_kmeans:
                drawn = sample_vectors_of_all_ranks(samples, len(replaced))
            else:
                if len(replaced) > len(samples):
                    some = torch.randperm(len(replaced), device=samples.device)[: len(samples)]
                    replaced = replaced[some].sort().values
                drawn = sample_vectors(samples, len(replaced))
            drawn = drawn.to(self.embed.dtype)
            self._writable()[head, replaced] = drawn
            self.cluster_size[head, replaced] = self.reset_cluster_size
            self.embed_avg[head, replaced] = drawn * self.reset_cluster_size

    def _writable(self) -> Tensor:
        """The codes, for a write that autograd does not see.

        A loss on a shared codebook that a stage has measured is differentiated after the write, at
        the new codes, as in the package.
        """
        return self.embed.data if self.learnable_codebook else self.embed

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self.read_initted()

    def read_initted(self) -> None:
        """Takes over a value of `initted` that was written from outside."""
        if not self.initted.is_meta:
            self._awaits_kmeans = not bool(self.initted)


def _samples_of_heads(latents: Tensor, mask: Tensor | None) -> Tensor:
    """Latents (H, N, D) of (H, ..., D), without those that are masked, as many for each head."""
    if mask is None:
        return latents.detach().flatten(1, -2)
    return latents.detach()[mask].unflatten(0, (len(latents), -1))


def _put_aside(average: Tensor, new: Tensor) -> None:
    """Adds to what a moving average will take in at its next step, kept as its gradient."""
    new = new.to(average.dtype)
    average.grad = new if average.grad is None else average.grad + new


def _one_for_each_code(weight: Tensor, counts: Tensor) -> Tensor:
    """A weight (), (K,) or (H, K) in the shape of the counts (H, K)."""
    shape = tuple(counts.shape)
    require(
        tuple(weight.shape) in ((), shape[1:], (1, *shape[1:]), shape),
        f"ema_update_weight must be a number, (K,) or (H, K) with H, K = {shape}, got "
        f"{tuple(weight.shape)}",
    )
    return weight.expand(shape)


def _move_average(
    average: Tensor, new: Tensor, decay: float, weight: Tensor | float | None
) -> None:
    if average.grad is not None:
        new, average.grad = new + average.grad, None
    step: float | Tensor = 1.0 - decay
    if weight is not None:
        step = step * weight
    if isinstance(step, Tensor):
        step = step.view(*step.shape, *[1] * (average.ndim - 2)).to(average.dtype)
    average.lerp_(new.to(average.dtype), step)
