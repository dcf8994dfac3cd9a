"""Holds nearest_code on a GPU against fp64 on many rows, and against the CPU.

    python benchmarks/gpu_exactness.py --rows 1e8 [--ways WAY...] [--output FILE]

Random rows are drawn on the GPU, anew in every run (the seed is printed), and every index is
compared with the fp64 search of all pairs there. Some rows of every block are searched in each of
the other ways too, and once more as bf16 and as fp16. The first block of each size is judged by
torch in fp64 as well, which knows nothing of our kernels, and by the CPU's op. Then come the CPU
suite's hard data (exactness_data.py), against the CPU's op. The output is written anew after every
size. Ends with status 1 after a mismatch or where a way failed.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from exactness_data import DATA
from gpu_contenders import WAYS, can_go, search_way, told
from gpu_report import write
from torch import Tensor

from vqgan_fast import ops

# Codes, dimensions and their share of the rows: few products a row, so that there can be many.
SIZES = [
    (1024, 4, 0.28),
    (1024, 8, 0.28),
    (512, 32, 0.2),
    (1024, 64, 0.15),
    (1024, 256, 0.05),
    (1024, 512, 0.02),
    (512, 1024, 0.02),
]
BLOCK = 1 << 20
MORE = 8  # one row in so many is searched in other ways and types; enough for wgmma and mma.sync
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


class Comparison:
    """Rows and wrong ones of each way and type; a way that fails once is not taken again."""

    def __init__(self, ways: list[str]) -> None:
        self.ways = ways
        self.found: dict[str, dict[str, Any]] = {}

    def compare(self, z: Tensor, codebook: Tensor, ways: Iterable[str]) -> None:
        """Counts what differs from the fp64 search."""
        with search_way("exact"):
            expected = ops.nearest_code(z, codebook, "exact", False)
        for way in ways:
            name = f"{way} {str(z.dtype).removeprefix('torch.')}"
            row = self.found.setdefault(name, {"rows": 0, "wrong": 0})
            if "error" in row:
                continue
            try:
                with search_way(way):
                    found = ops.nearest_code(z, codebook, "exact", False)
                row["wrong"] += (found != expected).sum().item()
                row["rows"] += len(z)
            except Exception as error:  # behind an illegal access all others end as well
                row["error"] = told(error)

    def block(self, z: Tensor, codebook: Tensor) -> None:
        first = os.environ.get("VQGAN_FAST_CUDA_SEARCH") or "auto"
        self.compare(z, codebook, [first])
        some = z[: -(-len(z) // MORE)]
        # A way that these cannot go is another's, which has its own turn.
        others = [way for way in self.ways if can_go(way, some, codebook)]
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            ways = others if dtype == torch.float32 else [first, *others]
            self.compare(some.to(dtype), codebook.to(dtype), dict.fromkeys(ways))

    def totals(self) -> dict[str, Any]:
        rows = max((row["rows"] for row in self.found.values()), default=0)
        wrong = sum(row["wrong"] for row in self.found.values())
        return {"rows": rows, "wrong": wrong, "ways": self.found}


def random_rows(
    rows: int, seed: int, ways: list[str], save: Callable[[dict[str, Any]], None]
) -> None:
    generator = torch.Generator("cuda").manual_seed(seed)
    comparison = Comparison(ways)
    judged = wrong_by_judges = 0

    def report() -> dict[str, Any]:
        found = comparison.totals()
        found["wrong"] += wrong_by_judges
        return found | {"judged_by_torch_and_cpu": judged}

    try:
        for k, d, share in SIZES:
            for first in range(0, round(rows * share), BLOCK):
                z, codebook = draw(min(BLOCK, round(rows * share) - first), k, d, generator)
                comparison.block(z, codebook)
                if first == 0:
                    some = z[:JUDGED]
                    found = ops.nearest_code(some, codebook, "exact", False)
                    wrong_by_judges += judge(some, codebook, found)
                    cpu = ops.nearest_code(some.cpu(), codebook.cpu(), "exact", False)
                    wrong_by_judges += (found.cpu() != cpu).sum().item()
                    judged += len(some)
            now = report()
            print(f"K {k}, D {d}: {now['rows']} rows so far, {now['wrong']} wrong", flush=True)
            save(now)
    finally:
        save(report())


def hard_data(
    blocks: int, seed: int, ways: list[str], save: Callable[[dict[str, Any]], None]
) -> None:
    generator = torch.Generator().manual_seed(seed)
    first = os.environ.get("VQGAN_FAST_CUDA_SEARCH") or "auto"
    compared = wrong = 0
    for number in range(blocks):
        k, d, _ = SIZES[number % len(SIZES)]
        for name, make in DATA.items():
            z, codebook = make(3000, k, d, generator)
            expected = ops.nearest_code(z, codebook, "exact", False)
            compared += len(z)
            on_gpu = z.cuda(), codebook.cuda()
            for way in dict.fromkeys([first, *(way for way in ways if can_go(way, *on_gpu))]):
                with search_way(way):
                    found = ops.nearest_code(*on_gpu, "exact", False).cpu()
                differ = (found != expected).sum().item()
                wrong += differ
                if differ:
                    print(f"{name}, K {k}, D {d}, {way}: {differ} of {len(z)} differ from the CPU")
        save({"rows": compared, "wrong": wrong})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=float, default=1e8)
    parser.add_argument("--blocks", type=int, default=10, help="of each kind of hard data")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**9)
    parser.add_argument(
        "--ways", nargs="*", default=WAYS[1:], choices=WAYS, help="to be compared besides"
    )
    parser.add_argument("--output", type=Path, help="a JSON file")
    args = parser.parse_args()
    print(f"--seed {args.seed}")
    report: dict[str, Any] = {"seed": args.seed}

    def save(name: str, found: dict[str, Any]) -> None:
        report[name] = found
        if args.output:
            write(args.output, report)

    random_rows(int(args.rows), args.seed, args.ways, partial(save, "random"))
    hard_data(args.blocks, args.seed, args.ways, partial(save, "hard"))
    print(json.dumps(report), flush=True)
    errors = [row for row in report["random"]["ways"].values() if "error" in row]
    raise SystemExit(bool(errors) or report["random"]["wrong"] + report["hard"]["wrong"] > 0)


if __name__ == "__main__":
    main()
