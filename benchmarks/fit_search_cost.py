"""Fits the constants of csrc/kernels/cpu/nearest_code_cost.cpp, and tells what the choice costs.

    VQGAN_FAST_ISA=avx2 python benchmarks/fit_search_cost.py           one level, on one thread
    python benchmarks/fit_search_cost.py --check                       the choice alone

Every way is forced on a grid of sizes, with the codebook packed before and anew. A fit prints the
rows of the table; the check compares the way that the op takes by itself with the fastest one.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import nnls
from tqdm import tqdm

from vqgan_fast import _native, ops

WAYS = ("direct", "fp32", "int16", "boxes")
MOST_PRODUCTS = 4e8
# Cycles that a row costs among boxes, by D: A (K / 1024)^p. nearest_code_cost.cpp has the same.
BOXES = {
    1: (120, 0.19),
    2: (146, 0.19),
    3: (200, 0.14),
    4: (250, 0.18),
    6: (416, 0.40),
    8: (800, 0.45),
    12: (1780, 0.71),
    16: (3600, 0.9),
}


def best_time(call: Callable[[], object], budget: float = 0.02) -> float:
    """Seconds of the fastest of some calls."""
    call()
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - start < budget:
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return min(times)


def times_of(n: int, k: int, d: int, ways: tuple[str, ...]) -> dict[tuple[str, bool], float]:
    """Nanoseconds by way and by whether the codebook was packed before."""
    torch.manual_seed(n + k + d)
    z, codebook = torch.randn(n, d), torch.randn(k, d)
    times = {}
    for way, kept in itertools.product(ways, (True, False)):
        os.environ["VQGAN_FAST_SCREEN"] = way
        os.environ["VQGAN_FAST_CACHE_MB"] = "256" if kept else "0"
        ops.nearest_code_counters(reset=True)
        seconds = best_time(lambda: ops.nearest_code(z, codebook))
        counters = ops.nearest_code_counters()
        if way == "auto" or counters[f"calls_{way}"] > 0:
            times[way, kept] = 1e9 * seconds
    return times


def sizes() -> list[tuple[int, int, int]]:
    grid = itertools.product(
        (1, 4, 16, 64, 256, 1024, 4096),
        (64, 256, 1024, 4096, 16384),
        (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256),
    )
    return [(n, k, d) for n, k, d in grid if n * k * d <= MOST_PRODUCTS]


def boxes_cycles(k: int, d: int) -> float:
    dims = sorted(BOXES)
    a = np.exp(np.interp(d, dims, [np.log(BOXES[x][0]) for x in dims]))
    p = np.interp(d, dims, [BOXES[x][1] for x in dims])
    return a * (k / 1024) ** p


def fit(features: list[list[float]], times: list[float]) -> np.ndarray:
    """Least squares of the relative errors, no coefficient below 0."""
    weights = 1 / np.array(times)
    return nnls(np.array(features) * weights[:, None], np.ones(len(times)))[0]


def fit_level() -> None:
    measured = {size: times_of(*size, WAYS) for size in tqdm(sizes(), unit="size")}
    hash_time = {(n, k, d): 100 + 0.2 * k * d for n, k, d in measured}
    print(
        _native.cpu_features()["selected"],
        "call, row, row_element, pair, pair_element, code, code_element",
    )
    for way in WAYS:
        have = [size for size in measured if (way, True) in measured[size]]
        if way == "boxes":
            have = [size for size in have if size[2] <= 16]
            features = [[1, n, n * d, n * boxes_cycles(k, d)] for n, k, d in have]
        elif way == "direct":
            features = [[1, n, n * d, n * k, n * k * d, k, k * d] for n, k, d in have]
        else:
            features = [[1, n, n * d, n * k, n * k * d] for n, k, d in have]
        kept = [
            measured[size][way, True] - (hash_time[size] if way != "direct" else 0) for size in have
        ]
        search = fit(features, kept)
        error = np.array(features) @ search / np.array(kept)
        print(f"{way:7s} search", *(f"{x:.4g}," for x in search), end="  ")
        print(f"ratio {np.percentile(error, 5):.2f} to {np.percentile(error, 95):.2f}")
        if way == "direct":
            continue
        few = [
            size for size in have if measured[size][way, False] > 1.1 * measured[size][way, True]
        ]
        packing = [measured[size][way, False] - measured[size][way, True] for size in few]
        if way == "boxes":
            features = [[k, k * max(0, np.log2(k / 32)), k * d] for _, k, d in few]
        else:
            features = [[k, k * d] for _, k, d in few]
        pack = fit(features, packing)
        error = np.array(features) @ pack / np.array(packing)
        print(f"{way:7s} pack  ", *(f"{x:.4g}," for x in pack), end="  ")
        print(f"ratio {np.percentile(error, 5):.2f} to {np.percentile(error, 95):.2f}")


def check_choice() -> None:
    """The sizes at which the op's own choice loses most against the fastest way."""
    lost = []
    for size in tqdm(sizes(), unit="size"):
        times = times_of(*size, (*WAYS, "auto"))
        for kept in (True, False):
            best = min((times[way, kept], way) for way in WAYS if (way, kept) in times)
            lost.append((times["auto", kept] / best[0], size, kept, best[1]))
    lost.sort(reverse=True)
    ratios = np.array([entry[0] for entry in lost])
    print(f"{len(lost)} cases: mean {ratios.mean():.3f}, above 1.05: {(ratios > 1.05).mean():.1%}")
    for ratio, (n, k, d), kept, best_way in lost[:40]:
        print(f"{ratio:.2f}  {n} x {k} x {d}, packed {'before' if kept else 'anew'}: {best_way}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    check_choice() if arguments.check else fit_level()
