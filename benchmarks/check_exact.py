"""Holds `nearest_code` against fp64 on many rows of hard data.

    python benchmarks/check_exact.py --rows 1e8 --report benchmarks/results

Every row is searched as users search, at the best SIMD level and the way that the op chooses, on
one thread, and each index compared with fp64_judge.py. A quarter of the rows is then searched again
at another SIMD level, forced to another way, with other threads, another split into batches and
other strides, which must change nothing: the next of all such settings for each block. A quarter of
the blocks are in bf16, fp16 or fp64. Everything follows from the seed: after a mismatch the program
prints how to see it again, and ends with status 1.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

import exactness_report
import fp64_judge
import machine
import torch
from exactness_data import DATA
from exactness_report import Outcome
from torch import Tensor
from tqdm import tqdm

from vqgan_fast import _native, ops

# Codes and dimensions: few products a row, so that there can be many rows; and enough of either for
# each way to search.
SIZES = [
    (64, 2),
    (64, 8),
    (128, 5),
    (256, 3),
    (256, 8),
    (512, 4),
    (16384, 4),
    (1024, 8),
    (8192, 8),
    (1024, 16),
    (512, 32),
    (4096, 32),
    (1024, 64),
    (8192, 64),
    (100, 100),
    (256, 256),
    (2048, 256),
]
MOST_ROWS = 17_000  # in a block: 1e8 rows are 5900 blocks, of 5600 settings with four levels
DTYPES = [torch.float32] * 3 + [torch.bfloat16] + [torch.float32] * 3 + [torch.float16]
DTYPES += [torch.float32] * 3 + [torch.float64]
# Data that fp16 does not hold.
BEYOND_FP16 = {"huge", "tiny"}


@dataclass(frozen=True)
class Block:
    data: str
    num_codes: int
    dim: int
    number: int
    rows: int

    @property
    def name(self) -> str:
        return f"{self.data}/{self.num_codes}x{self.dim}/{self.number}/{self.rows}"

    def tensors(self, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed ^ zlib.crc32(self.name.encode()))
        z, codebook = DATA[self.data](self.rows, self.num_codes, self.dim, generator)
        dtype = DTYPES[self.number % len(DTYPES)]
        if dtype == torch.float16 and self.data in BEYOND_FP16:
            dtype = torch.bfloat16
        z = z.to(dtype)
        # fp64_judge takes finite rows; what else there is belongs to the tests.
        return z.masked_fill(~z.isfinite(), 0), codebook


def blocks(rows: int, data: list[str]) -> list[Block]:
    """All blocks of a run: rows shared evenly between the data sets, and between the sizes by a
    root of what a row costs, most to the small ones."""
    weights = [(1 + k * (d + 8) / 10_000) ** -0.6 for k, d in SIZES]
    found = []
    for name in data:
        for (k, d), weight in zip(SIZES, weights, strict=True):
            share = max(1, round(rows / len(data) * weight / sum(weights)))
            count = -(-share // MOST_ROWS)
            ends = [share * i // count for i in range(count + 1)]
            found += [(name, k, d, ends[i + 1] - ends[i]) for i in range(count)]
    # Any part of the run sees a bit of everything, and no setting goes with one size alone.
    random.Random(0).shuffle(found)
    return [Block(name, k, d, i, n) for i, (name, k, d, n) in enumerate(found)]


@contextmanager
def forced(name: str, value: str | None) -> Iterator[None]:
    """Sets an environment variable, or takes it away."""
    before = os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


@cache
def levels() -> list[str]:
    """The SIMD levels that were compiled in and that this CPU runs, the best last."""
    compiled = _native.build_info()["simd_compiled"]
    return [level for level in compiled if level in _native.cpu_features()["levels"]]


# The same rows, laid out in memory in another way.
LAYOUTS = {
    "contiguous": lambda z: z,
    "images": lambda z: z.t().contiguous().t(),
    "every other row": lambda z: z.repeat_interleave(2, 0)[::2],
    "every other element": lambda z: z.repeat_interleave(2, 1)[:, ::2],
    "within wider rows": lambda z: torch.cat([z, z], 1)[:, : z.shape[1]],
}
SPLITS = (1, 2, 3, 7, 50)
WAYS = ("auto", "direct", "fp32", "int16", "int8", "boxes", "clusters")
# Coprime to the number of settings: steps of it come to each setting once before they repeat.
STRIDE = 2473


@dataclass(frozen=True)
class Setting:
    level: str
    way: str
    threads: int
    layout: str
    parts: int

    def __str__(self) -> str:
        return (
            f"{self.level}, {self.way}, {self.threads} threads, {self.layout}, {self.parts} batches"
        )


def setting(number: int) -> Setting:
    """The number-th of all settings, in an order in which they differ soon."""
    rest, chosen = number * STRIDE, []
    for choices in (levels(), WAYS, range(1, 9), list(LAYOUTS), SPLITS):
        chosen.append(choices[rest % len(choices)])
        rest //= len(choices)
    return Setting(*chosen)


def search(z: Tensor, codebook: Tensor, parts: int = 1) -> Tensor:
    return torch.cat(
        [ops.nearest_code(part, codebook, return_distance=False) for part in z.tensor_split(parts)]
    )


def counted(z: Tensor, codebook: Tensor, parts: int, outcome: Outcome, level: str) -> Tensor:
    """A search, and in outcome which ways it went."""
    before = Counter(ops.nearest_code_counters())
    found = search(z, codebook, parts)
    counters = Counter(ops.nearest_code_counters()) - before
    calls = {way: counters[f"calls_{way}"] for way in WAYS if counters[f"calls_{way}"]}
    # Clusters come beside another way, unless they are forced.
    ways = {way: count for way, count in calls.items() if way != "clusters"} or calls
    for way, count in ways.items():
        outcome.searched[way, level] += round(len(z) * count / sum(ways.values()))
    outcome.counters += counters
    return found


def check(block: Block, seed: int) -> Outcome:
    """Searches and judges one block."""
    torch.set_num_threads(1)
    z, codebook = block.tensors(seed)
    outcome = Outcome(block.data, f"{block.num_codes}x{block.dim}", str(z.dtype)[6:], block.rows)
    best = levels()[-1]
    with forced("VQGAN_FAST_ISA", None), forced("VQGAN_FAST_SCREEN", None):
        found = counted(z, codebook, 1, outcome, best)
    expected, outcome.scalar = fp64_judge.nearest(z, codebook, found)
    compare(block, f"{best}, auto, 1 thread", z, codebook, found, expected, outcome)

    other, quarter = setting(block.number), block.number // 4 % 4
    part = slice(quarter * len(z) // 4, (quarter + 1) * len(z) // 4)
    with forced("VQGAN_FAST_ISA", other.level), forced("VQGAN_FAST_SCREEN", other.way):
        torch.set_num_threads(other.threads)
        again = counted(LAYOUTS[other.layout](z[part]), codebook, other.parts, outcome, other.level)
        torch.set_num_threads(1)
    outcome.again = len(again)
    compare(block, str(other), z[part], codebook, again, expected[part], outcome)
    if outcome.mismatches:
        outcome.mismatches.append(
            f"Again: python benchmarks/check_exact.py --seed {seed} --block {block.name}"
        )
    return outcome


def compare(
    block: Block,
    how: str,
    z: Tensor,
    codebook: Tensor,
    found: Tensor,
    expected: Tensor,
    outcome: Outcome,
) -> None:
    wrong = (found != expected).nonzero()[:, 0]
    if len(wrong) == 0:
        return
    outcome.wrong += len(wrong)
    row = int(wrong[0])
    pair = codebook[[int(found[row]), int(expected[row])]]
    one = z[row : row + 1]
    distances = [fp64_judge.scalar(one, code[None])[1].item() for code in pair]
    outcome.mismatches.append(
        f"{len(wrong)} of {len(z)} indices differ from fp64 in {block.name} ({z.dtype}), by {how}."
        f"\nFirst in row {row}: found {int(found[row])}, squared distance {distances[0]!r}; "
        f"nearest is {int(expected[row])}, {distances[1]!r}."
    )


def outcomes(chosen: list[Block], seed: int, processes: int) -> Iterator[Outcome]:
    """Of all blocks, in the order in which they are done."""
    one = partial(check, seed=seed)
    if processes == 1:
        yield from map(one, chosen)
        return
    # Forked, since importing anew takes longer than a share of the rows; torch has not started a
    # thread yet.
    with ProcessPoolExecutor(processes, get_context("fork")) as pool:
        try:
            for done in as_completed([pool.submit(one, block) for block in chosen]):
                yield done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def run(
    chosen: list[Block],
    seed: int,
    processes: int,
    quiet: bool,
    report: Path | None = None,
    cpu: str | None = None,
) -> int:
    levels_run = ", ".join(levels())
    print(f"SIMD levels: {levels_run}. Processes: {processes}. Seed {seed}.", flush=True)
    total = sum(block.rows for block in chosen)
    progress = tqdm(total=total, unit=" rows", unit_scale=True, disable=quiet, smoothing=0)
    started, done, failures = time.monotonic(), [], 0
    for outcome in outcomes(chosen, seed, processes):
        done.append(outcome)
        if outcome.mismatches:
            failures += 1
            progress.write("\n".join(outcome.mismatches))
            if failures == 5:
                break
        progress.update(outcome.rows)
    progress.close()
    result = exactness_report.collect(done, time.monotonic() - started, seed, processes)
    result["cpu"] = cpu or result["cpu"]
    print("\n".join(exactness_report.tables(result)))
    if report is not None:
        exactness_report.write(result, report)
    return 1 if failures else 0


def parse_block(name: str) -> Block:
    data, size, number, rows = name.split("/")
    codes, dim = size.split("x")
    return Block(data, int(codes), int(dim), int(number), int(rows))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=float, default=1e6, help="how many, in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", choices=sorted(DATA), nargs="+", default=list(DATA))
    parser.add_argument("--block", type=parse_block, help="this one alone, as a failure named it")
    parser.add_argument(
        "--processes", type=int, default=machine.all_threads(), help="default: one a core"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument(
        "--report", type=Path, help="FILE.md and FILE.json; in a folder, named after the machine"
    )
    parser.add_argument("--cpu", help="its name in the report, where the machine hides which it is")
    arguments = parser.parse_args()
    chosen = [arguments.block] if arguments.block else None
    if chosen is None:
        chosen = blocks(int(arguments.rows), arguments.data)
    processes = max(1, min(arguments.processes, len(chosen)))
    quiet, report, cpu = arguments.quiet, arguments.report, arguments.cpu
    return run(chosen, arguments.seed, processes, quiet, report, cpu)


if __name__ == "__main__":
    sys.exit(main())
