"""Lloyd's k-means, on one process or over all of them."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from . import search
from .sampling import sample_vectors, sample_vectors_of_all_ranks


@torch.no_grad()
def kmeans(
    samples: Tensor, num_codes: int, iterations: int, cosine: bool, synchronize: bool
) -> tuple[Tensor, Tensor]:
    """Centroids of the samples, started from some of them.

    A centroid without samples stays where it is.

    Args:
        samples: (H, N, D), clustered for each head on its own.
        num_codes: K.
        iterations: at least 1.
        cosine: assign by inner product, and normalise centroids.
        synchronize: cluster the samples of all ranks; H must be 1.

    Returns:
        centroids (H, K, D), and how many samples each had in the last assignment, (H, K).
    """
    draw = sample_vectors_of_all_ranks if synchronize else sample_vectors
    centroids = torch.stack([draw(head, num_codes) for head in samples])
    for _ in range(iterations):
        indices = search.nearest(samples, centroids, cosine)
        counts, sums = search.statistics(samples, indices, None, num_codes)
        if synchronize:
            dist.all_reduce(counts)
            dist.all_reduce(sums)
        means = sums / counts.clamp(min=1).unsqueeze(-1)
        if cosine:
            means = search.normalize(means)
        centroids = torch.where(counts.unsqueeze(-1) == 0, centroids, means)
    return centroids, counts
