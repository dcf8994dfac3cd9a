"""Random draws of latents, from one process or from all of them."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def sample_vectors(samples: Tensor, number: int) -> Tensor:
    """`number` rows of samples (N, D), without repetition where there are as many."""
    count, device = len(samples), samples.device
    if count >= number:
        return samples[torch.randperm(count, device=device)[:number]]
    return samples[torch.randint(0, count, (number,), device=device)]


def sample_vectors_of_all_ranks(samples: Tensor, number: int) -> Tensor:
    """`number` rows of the samples (N, D) of all ranks, N of each its own; the same rows on each.

    Every rank gives a share drawn from the multinomial distribution over the numbers of rows.
    Every rank must call it.
    """
    ranks = dist.get_world_size()
    counts = [torch.zeros((), dtype=torch.int64, device=samples.device) for _ in range(ranks)]
    dist.all_gather(counts, counts[0].new_tensor(len(samples)))
    shares = torch.empty(ranks, dtype=torch.int64, device=samples.device)
    if dist.get_rank() == 0:
        counts = torch.stack(counts)
        shares.copy_(_multinomial(number, (counts / counts.sum()).cpu()))
    dist.broadcast(shares, src=0)

    shares = shares.tolist()
    parts = [samples.new_empty(share, samples.shape[1]) for share in shares]
    parts[dist.get_rank()] = sample_vectors(samples, shares[dist.get_rank()])
    for rank, part in enumerate(parts):
        if len(part) > 0:
            dist.broadcast(part, src=rank)
    return torch.cat(parts)


def _multinomial(number: int, probabilities: Tensor) -> Tensor:
    """Counts that sum to `number`: each is binomial given those before it."""
    counts = torch.empty(len(probabilities), dtype=torch.int64)
    left, remainder = torch.tensor(float(number)), torch.tensor(1.0)
    for i, probability in enumerate(probabilities[:-1]):
        # Rounding may bring the ratio of the last ones a little above 1.
        count = torch.binomial(left, (probability / remainder).clamp(max=1))
        counts[i] = count
        left, remainder = left - count, remainder - probability
    counts[-1] = left
    return counts
