"""How much longer a search takes on codebooks that are made to be hard than on Gaussian data.

    python benchmarks/random_codebooks.py --seconds 60 --seed 2

Clusters, shells, lines, heavy tails and mixtures of them, nested up to three deep, with rows on
codes, near them, far away, or mixed: 4096 rows on one thread, each size beside Gaussian data of its
own. The codebook is packed before, where it is kept. Prints the worst and how many are within 2.5.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from vqgan_fast import ops

ROWS = 4096
DIMS = (9, 12, 16, 24, 32, 64, 128, 256)
CODES = (1024, 4096, 8192, 16384)
GOAL = 2.5


def points(n: int, d: int, depth: int = 0) -> Tensor:
    """Places of some kind; what they are built from is nested."""
    kinds = ("gauss", "sphere", "clusters", "clusters", "two scales", "shells", "tails", "subspace")
    kind = random.choice(kinds) if depth < 3 else "gauss"
    noise = torch.randn(n, d)
    if kind == "gauss":
        return noise
    if kind == "sphere":
        return normalize(noise, dim=1)
    if kind == "clusters":
        count = random.choice((2, 3, 5, 8, 12, 20, 32, 50, 100))
        of = torch.randint(count, (n,))
        if random.random() < 0.5:  # of different sizes
            sizes = torch.distributions.Exponential(3 / count).sample((n,))
            of = sizes.long().clamp(max=count - 1)
        return points(count, d, depth + 1)[of] + 10 ** random.uniform(-6, -0.3) * noise
    if kind == "two scales":
        coarse, fine = points(n, d, depth + 1), points(n, d, depth + 1)
        fine = fine * 10 ** random.uniform(-6, -0.5) + random.choice((0, 1)) * torch.randn(d)
        return torch.where(torch.rand(n, 1) < random.random(), coarse, fine)
    if kind == "shells":
        return normalize(noise, dim=1) * 10 ** (random.uniform(0.5, 6) * torch.rand(n, 1))
    if kind == "tails":
        return torch.distributions.StudentT(random.choice((1.0, 1.5, 2.0, 3.0))).sample((n, d))
    axes = random.choice((1, 2, 4))
    flat = torch.randn(n, axes) @ torch.randn(axes, d)
    return flat + 10 ** random.uniform(-6, -1) * noise


def rows_for(codebook: Tensor) -> tuple[str, Tensor]:
    kind = random.choice(("on codes", "on codes", "near codes", "as wide", "far", "mixed"))
    noise = torch.randn(ROWS, codebook.shape[1])
    z = codebook[torch.randint(len(codebook), (ROWS,))]
    if kind == "as wide":
        return kind, noise * codebook.std()
    if kind == "far":
        return kind, noise * 10 ** random.uniform(-3, 4)
    if kind != "on codes":
        z = z + noise * codebook.std() * 10 ** random.uniform(-6, 0)
    if kind == "mixed":
        z[::2] = noise[::2] * codebook.std()
    return kind, z


def milliseconds(z: Tensor, codebook: Tensor, calls: int) -> float:
    """The best of some calls, the codebook packed before."""
    best = float("inf")
    for _ in range(calls + 1):
        start = time.perf_counter()
        ops.nearest_code(z, codebook)
        best = min(best, time.perf_counter() - start)
    return 1e3 * best


@cache
def gaussian_milliseconds(k: int, d: int) -> float:
    return milliseconds(torch.randn(ROWS, d), torch.randn(k, d), calls=6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(args.seed)
    torch.manual_seed(args.seed)
    found: list[tuple[float, str]] = []
    end = time.monotonic() + args.seconds
    with tqdm(unit="codebook") as progress:
        while time.monotonic() < end:
            k, d = random.choice(CODES), random.choice(DIMS)
            codebook = points(k, d)
            kind, z = rows_for(codebook)
            if not (z.isfinite().all() and codebook.isfinite().all()):
                continue
            ratio = milliseconds(z, codebook, calls=3) / gaussian_milliseconds(k, d)
            found.append((ratio, f"K = {k}, D = {d}, rows {kind}"))
            progress.update()
    found.sort(reverse=True)
    ratios = [ratio for ratio, _ in found]
    within = sum(ratio <= GOAL for ratio in ratios) / len(ratios)
    print(f"{len(ratios)} codebooks: {within:.1%} take at most {GOAL} times Gaussian data's time,")
    print(f"the median {statistics.median(ratios):.2f}; the longest:")
    for ratio, what in found[:5]:
        print(f"  {ratio:.2f}  {what}")


if __name__ == "__main__":
    main()
