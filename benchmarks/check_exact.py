"""Holds `nearest_code` against fp64 on many rows of hard data.

    python benchmarks/check_exact.py --rows 1e8

Every block of rows is searched at the best SIMD level on one thread, and each index compared with
fp64_judge.py. Then it is searched again at another SIMD level, with other threads, another split
into batches and other strides, which must change nothing: the next of all such settings for each
block. A quarter of the blocks are in bf16, fp16 or fp64. Everything follows from the seed: after a
mismatch the program prints how to see it again, and ends with status 1.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import fp64_judge
import torch
from exactness_data import DATA
from torch import Tensor
from tqdm import tqdm

from vqgan_fast import _native, ops

# Codes and dimensions: few products a row, so that there can be many rows; and enough of either for
# each way to search.
SIZES = [
    (64, 2),
    (256, 3),
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
MOST_ROWS = 1 << 15  # in a block
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


@dataclass
class Tally:
    rows: int = 0
    blocks: int = 0
    scalar: int = 0
    wrong: int = 0
    counters: Counter = field(default_factory=Counter)


def blocks(rows: int, data: list[str]) -> list[Block]:
    """All blocks of a run: rows shared evenly between the data sets, and between the sizes by the
    root of what a row costs."""
    weights = [(k * (d + 24)) ** -0.5 for k, d in SIZES]
    found = []
    for name, ((k, d), weight) in itertools.product(data, zip(SIZES, weights, strict=True)):
        share = round(rows / len(data) * weight / sum(weights))
        count = max(1, -(-share // MOST_ROWS))
        found += [Block(name, k, d, i, max(1, share // count)) for i in range(count)]
    # In turn, so that the first minutes have seen a bit of everything.
    return sorted(found, key=lambda block: block.number)


@contextmanager
def level(name: str | None) -> Iterator[None]:
    """Forces a SIMD level."""
    before = os.environ.pop("VQGAN_FAST_ISA", None)
    if name is not None:
        os.environ["VQGAN_FAST_ISA"] = name
    try:
        yield
    finally:
        os.environ.pop("VQGAN_FAST_ISA", None)
        if before is not None:
            os.environ["VQGAN_FAST_ISA"] = before


def levels() -> list[str]:
    """The SIMD levels that were compiled in and that this CPU runs."""

    def runs(name: str) -> bool:
        with level(name):
            try:
                ops.nearest_code(torch.zeros(1, 1), torch.zeros(1, 1))
            except RuntimeError:
                return False
            return True

    return [name for name in _native.build_info()["simd_compiled"] if runs(name)]


# The same rows, laid out in memory in another way.
LAYOUTS = {
    "contiguous": lambda z: z,
    "images": lambda z: z.t().contiguous().t(),
    "every other row": lambda z: z.repeat_interleave(2, 0)[::2],
    "every other element": lambda z: z.repeat_interleave(2, 1)[:, ::2],
    "within wider rows": lambda z: torch.cat([z, z], 1)[:, : z.shape[1]],
}
SPLITS = (1, 2, 3, 7, 50)


def settings(number: int, names: list[str]) -> tuple[str, int, str, int]:
    """The number-th choice of SIMD level, threads, layout and number of batches."""
    layouts = list(LAYOUTS)
    # Sizes 1 to 8 beside cycles of other lengths: all pairs come up.
    return (
        names[number % len(names)],
        1 + (number + number // len(names)) % 8,
        layouts[(number // 2) % len(layouts)],
        SPLITS[(number // 3) % len(SPLITS)],
    )


def search(z: Tensor, codebook: Tensor, parts: int = 1) -> Tensor:
    return torch.cat(
        [ops.nearest_code(part, codebook, return_distance=False) for part in z.tensor_split(parts)]
    )


class Mismatch(Exception):
    pass


def check(block: Block, seed: int, variant: tuple[str, int, str, int], tally: Tally) -> None:
    z, codebook = block.tensors(seed)
    counters = getattr(ops, "nearest_code_counters", dict)
    before = Counter(counters())
    torch.set_num_threads(1)
    found = search(z, codebook)
    tally.counters += Counter(counters()) - before
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    expected, scalar = fp64_judge.nearest(z, codebook)
    tally.scalar += scalar
    tally.rows += len(z)
    tally.blocks += 1
    compare(block, "the best level, 1 thread", z, codebook, found, expected, tally)

    name, threads, layout, parts = variant
    with level(name):
        torch.set_num_threads(threads)
        again = search(LAYOUTS[layout](z), codebook, parts)
    how = f"{name}, {threads} threads, {layout}, {parts} batches"
    compare(block, how, z, codebook, again, expected, tally)


def compare(
    block: Block,
    how: str,
    z: Tensor,
    codebook: Tensor,
    found: Tensor,
    expected: Tensor,
    tally: Tally,
) -> None:
    wrong = (found != expected).nonzero()[:, 0]
    if len(wrong) == 0:
        return
    tally.wrong += len(wrong)
    row = int(wrong[0])
    pair = codebook[[int(found[row]), int(expected[row])]]
    one = z[row : row + 1]
    distances = [fp64_judge.scalar(one, code[None])[1].item() for code in pair]
    raise Mismatch(
        f"{len(wrong)} of {len(z)} indices differ from fp64 in {block.name} ({z.dtype}), by {how}."
        f"\nFirst in row {row}: found {int(found[row])}, squared distance {distances[0]!r}; "
        f"nearest is {int(expected[row])}, {distances[1]!r}."
    )


def table(tallies: dict[str, Tally]) -> str:
    lines = ["| data | rows | blocks | rows left to the scalar definition | wrong |"]
    lines.append("|---|--:|--:|--:|--:|")
    total = Tally()
    for name, tally in tallies.items():
        lines.append(
            f"| {name.replace('_', '-')} | {tally.rows:,} | {tally.blocks} | {tally.scalar:,} "
            f"| {tally.wrong} |"
        )
        total.rows += tally.rows
        total.blocks += tally.blocks
        total.scalar += tally.scalar
        total.wrong += tally.wrong
        total.counters += tally.counters
    lines.append(f"| all | {total.rows:,} | {total.blocks} | {total.scalar:,} | {total.wrong} |")
    if total.counters:
        lines += ["", "Tiers: " + ", ".join(f"{name} {n:,}" for name, n in total.counters.items())]
    return "\n".join(lines)


def run(chosen: list[tuple[int, Block]], seed: int, quiet: bool) -> int:
    names = levels()
    tallies = {block.data: Tally() for _, block in chosen}
    print(f"SIMD levels: {', '.join(names)}. Threads: 1 to 8. Seed {seed}.", flush=True)
    total = sum(block.rows for _, block in chosen)
    progress = tqdm(total=total, unit=" rows", unit_scale=True, disable=quiet, smoothing=0)
    started, failures = time.monotonic(), 0
    for number, block in chosen:
        try:
            check(block, seed, settings(number, names), tallies[block.data])
        except Mismatch as mismatch:
            failures += 1
            again = f"--seed {seed} --block {number}:{block.name}"
            progress.write(f"{mismatch}\nAgain: python benchmarks/check_exact.py {again}")
            if failures == 5:
                break
        progress.update(block.rows)
    progress.close()
    print(table(tallies))
    print(f"{time.monotonic() - started:.0f} s, {failures} blocks with a mismatch")
    return 1 if failures else 0


def parse_block(text: str) -> tuple[int, Block]:
    number, name = text.split(":")
    data, size, at, rows = name.split("/")
    codes, dim = size.split("x")
    return int(number), Block(data, int(codes), int(dim), int(at), int(rows))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=float, default=1e6, help="how many, in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", choices=sorted(DATA), nargs="+", default=list(DATA))
    parser.add_argument("--block", type=parse_block, help="this one alone, as a failure named it")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    arguments = parser.parse_args()
    chosen = [arguments.block] if arguments.block else None
    if chosen is None:
        chosen = list(enumerate(blocks(int(arguments.rows), arguments.data)))
    return run(chosen, arguments.seed, arguments.quiet)


if __name__ == "__main__":
    sys.exit(main())
