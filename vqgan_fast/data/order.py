"""Which sample comes where: pure functions of (seed, epoch, global position).

Training walks along global positions 0, 1, 2, ...; position p is the sample number p % N of epoch
p // N, and every epoch has its own permutation of the N samples. A batch of R ranks with b samples
each takes the next b R positions, rank r the r-th part of them. So R ranks see exactly the samples
of one process with an R times larger batch, and a run resumes anywhere, on any number of ranks.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

# What a random number is for. Each purpose has a stream of its own, so that none disturbs another.
ORDER, AUGMENTATION, CODE_DROPOUT, DEAD_CODES, CONDITION_DROPOUT = range(5)


def counter_generator(seed: int, purpose: int, epoch: int, position: int) -> np.random.Generator:
    """A random generator that depends on these four numbers and nothing else (Philox counters)."""
    # As uint64 arrays: numpy would take a list with a large number in it for floats.
    key = np.array([seed % 2**64, purpose], dtype=np.uint64)
    counter = np.array([0, 0, position, epoch], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


class SampleOrder:
    """The order of `num_samples` samples over all epochs.

    Args:
        num_samples: N, at least 1.
        seed: of the permutations.
        shuffle: False keeps the samples' own order in every epoch.

    Raises:
        ValueError: there are no samples.
    """

    def __init__(self, num_samples: int, seed: int = 0, shuffle: bool = True) -> None:
        if num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, got {num_samples}")
        self.num_samples = num_samples
        self.seed = seed
        self.shuffle = shuffle

    def locate(self, position: int) -> tuple[int, int]:
        """(epoch, sample index) of a global position."""
        epoch, place = divmod(position, self.num_samples)
        if not self.shuffle:
            return epoch, place
        return epoch, int(_permutation(self.num_samples, self.seed, epoch)[place])


@lru_cache(maxsize=4)  # a batch touches one epoch, two at a seam
def _permutation(num_samples: int, seed: int, epoch: int) -> np.ndarray:
    return counter_generator(seed, ORDER, epoch, 0).permutation(num_samples)


def rank_positions(start: int, batch_size: int, rank: int = 0, world_size: int = 1) -> range:
    """The global positions of one rank's part of the batch that starts at position `start`.

    Args:
        start: samples that came before, of all ranks.
        batch_size: samples per rank.

    Raises:
        ValueError: rank is not below world_size.
    """
    if rank >= world_size:
        raise ValueError(f"rank must be below world_size = {world_size}, got {rank}")
    first = start + rank * batch_size
    return range(first, first + batch_size)
