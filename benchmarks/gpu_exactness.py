"""Holds nearest_code on a GPU against fp64 on many rows, and against the CPU.

    python benchmarks/gpu_exactness.py --rows 1e8 [--output FILE]

Random rows are drawn on the GPU, anew in every run (the seed is printed), and every index is
compared with the fp64 search of all pairs there. The first block of each size is judged by torch
in fp64 as well, which knows nothing of our kernels, and by the CPU's op. Then come the CPU suite's
hard data (exactness_data.py), against the CPU's op. Ends with status 1 after a mismatch.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from exactness_data import DATA
from gpu_report import write
from gpu_speed import search_way
from torch import Tensor

from vqgan_fast import ops

# Codes, dimensions and their share of the rows: few products a row, so that there can be many.
SIZES = [(1024, 4, 0.3), (1024, 8, 0.3), (512, 32, 0.2), (1024, 64, 0.15), (1024, 256, 0.05)]
BLOCK = 1 << 20
JUDGED = 4096  # rows of a block that torch and the CPU see


def draw(n: int, k: int, d: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Gaussian; every fourth row in the middle of two codes, up to rounding."""
    z, codebook = (torch.randn(m, d, device="cuda", generator=generator) for m in (n, k))
    pairs = torch.randint(k, (2, len(z[::4])), device="cuda", generator=generator)
    z[::4] = (codebook[pairs[0]] + codebook[pairs[1]]) / 2
    return z, codebook


def judge(z: Tensor, codebook: Tensor, indices: Tensor) -> int:
    """Rows whose code is farther than the nearest, by torch's fp64 sums of squares."""
    x, e = z.double(), codebook.double()
    wrong = 0
    for part, chosen in zip(x.split(256), indices.split(256), strict=True):
        distances = (part[:, None] - e).square().sum(2)
        least = distances.amin(1)
        # torch sums in another order than the definition: equal up to that.
        mine = distances.gather(1, chosen[:, None])[:, 0]
        wrong += (mine > least * (1 + 1e-13)).sum().item()
    return wrong


def random_rows(rows: int, seed: int) -> dict[str, Any]:
    generator = torch.Generator("cuda").manual_seed(seed)
    compared = wrong = judged = 0
    for k, d, share in SIZES:
        left = round(rows * share)
        first = True
        while left > 0:
            n = min(BLOCK, left)
            left -= n
            z, codebook = draw(n, k, d, generator)
            found = ops.nearest_code(z, codebook, "exact", False)
            with search_way("exact"):
                expected = ops.nearest_code(z, codebook, "exact", False)
            wrong += (found != expected).sum().item()
            compared += n
            if first:
                first = False
                some = slice(0, JUDGED)
                wrong += judge(z[some], codebook, found[some])
                cpu = ops.nearest_code(z[some].cpu(), codebook.cpu(), "exact", False)
                wrong += (found[some].cpu() != cpu).sum().item()
                judged += min(n, JUDGED)
        print(f"K {k}, D {d}: {compared} rows so far, {wrong} wrong", flush=True)
    return {"rows": compared, "wrong": wrong, "judged_by_torch_and_cpu": judged}


def hard_data(blocks: int, seed: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    compared = wrong = 0
    for number in range(blocks):
        k, d, _ = SIZES[number % len(SIZES)]
        for name, make in DATA.items():
            z, codebook = make(3000, k, d, generator)
            expected = ops.nearest_code(z, codebook, "exact", False)
            found = ops.nearest_code(z.cuda(), codebook.cuda(), "exact", False).cpu()
            compared += len(z)
            differ = (found != expected).sum().item()
            wrong += differ
            if differ:
                print(f"{name}, K {k}, D {d}: {differ} of {len(z)} differ from the CPU")
    return {"rows": compared, "wrong": wrong}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=float, default=1e8)
    parser.add_argument("--blocks", type=int, default=10, help="of each kind of hard data")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**9)
    parser.add_argument("--output", type=Path, help="a JSON file")
    args = parser.parse_args()
    print(f"--seed {args.seed}")
    report: dict[str, Any] = {"seed": args.seed}
    for name, compare, amount in (
        ("random", random_rows, int(args.rows)),
        ("hard", hard_data, args.blocks),
    ):
        report[name] = compare(amount, args.seed)
        print(json.dumps(report), flush=True)
        if args.output:
            write(args.output, report)
    raise SystemExit(report["random"]["wrong"] + report["hard"]["wrong"] > 0)


if __name__ == "__main__":
    main()
