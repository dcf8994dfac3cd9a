"""Fits what csrc/kernels/cpu/nearest_code_cost.cpp estimates, and tells what the choice costs.

    VQGAN_FAST_ISA=avx2 python benchmarks/fit_search_cost.py measure avx2.json
    python benchmarks/fit_search_cost.py fit avx2.json avx2.inc
    python benchmarks/fit_search_cost.py check avx2.json
    VQGAN_FAST_ISA=avx2 python benchmarks/fit_search_cost.py measure between.json --sizes between

`fit` prints a level's rows of the table and writes by how much the times differ from it, which is
csrc/kernels/cpu/nearest_code_correction_avx2.inc. `check` tells what the op chooses now, at
the sizes that were measured: those of the correction, others between them, or, measured longer,
those of usual codebooks, which are among the correction's (--sizes grid, between, usual).

`measure` forces every way on a grid of sizes, on one thread, with the codebook packed before and
anew. The ways take turns, and beside them a search that is the same in every round: the median of
the times as multiples of its time does not change with the clock of the CPU. It takes minutes on a
machine that does nothing else; --slice 1/4 .. 4/4 measure a part each, into the same file. The
choice is checked by the times of the way that is chosen: noise cannot make it look better or worse
than another.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import nnls
from tqdm import tqdm

from vqgan_fast import _native, ops

WAYS = ("direct", "fp32", "int16", "int8", "boxes")
INT8_LEVELS = ("avxvnni", "avx512vnni", "neondot")  # others have no more of it than the baseline
MOST_PRODUCTS = 1.7e9
# A turn calls so often that it takes about this long; a size has as many rounds as fit.
TURN_SECONDS = 3e-4
SIZE_SECONDS = {"grid": 0.25, "between": 0.25, "usual": 0.6}
LEAST_ROUNDS, MOST_ROUNDS = 5, 41
# The search that is the same in every round, by the direct way, and its nanoseconds: any number
# near the truth, for only ratios matter.
YARDSTICK, YARDSTICK_NS = (16, 512, 64), 3e4
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

# The sizes of the correction, as nearest_code_correction.cpp has them.
ROWS = (1, 2, 4, 8, 16, 64, 256, 1024, 4096, 32768)
CODES = (64, 256, 1024, 4096, 8192, 16384, 262144)
DIMS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 64, 128, 256)
# Others, at which the choice is interpolated.
ROWS_BETWEEN, CODES_BETWEEN = (3, 6, 30, 128, 500, 2048, 8192), (100, 500, 2000, 6000)
DIMS_BETWEEN = (7, 9, 11, 14, 20, 48, 100)
# Those of usual codebooks, and K = 262144.
ROWS_USUAL, CODES_USUAL = (1, 256, 4096, 32768), (1024, 8192, 16384, 262144)
DIMS_USUAL = (3, 4, 8, 16, 32, 64, 128, 256)
AXES = {
    "grid": (ROWS, CODES, DIMS),
    "between": (ROWS_BETWEEN, CODES_BETWEEN, DIMS_BETWEEN),
    "usual": (ROWS_USUAL, CODES_USUAL, DIMS_USUAL),
}

Size = tuple[int, int, int]
# Nanoseconds by way and by whether the codebook was packed before.
Times = dict[tuple[str, bool], float]


def sizes(which: str) -> list[Size]:
    return [(n, k, d) for n, k, d in itertools.product(*AXES[which]) if n * k * d <= MOST_PRODUCTS]


def take(way: str, kept: bool) -> None:
    os.environ["VQGAN_FAST_SCREEN"] = way
    os.environ["VQGAN_FAST_CACHE_MB"] = "1024" if kept else "0"


def way_taken() -> str | None:
    counters = ops.nearest_code_counters(reset=True)
    return next((way for way in WAYS if counters[f"calls_{way}"] > 0), None)


def tensors_of(size: Size) -> tuple[torch.Tensor, torch.Tensor]:
    n, k, d = size
    torch.manual_seed(n + k + d)
    return torch.randn(n, d), torch.randn(k, d)


def seconds_of(call: Callable[[], object], count: int) -> float:
    call()
    begin = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - begin) / count


def times_of(size: Size, seconds_of_size: float) -> Times:
    """Of every way that holds for the codebook; "call" is what a call without rows costs."""
    z, codebook = tensors_of(size)
    no_rows = z[:0]
    calls: dict[tuple[str, bool], Callable[[], object]] = {}
    has_int8 = _native.cpu_features()["selected"] in INT8_LEVELS
    for way, kept in itertools.product(WAYS, (True, False)):
        if way == "int8" and not has_int8:
            continue
        take(way, kept)
        way_taken()
        ops.nearest_code(z, codebook)
        if way_taken() == way:
            calls[way, kept] = lambda: ops.nearest_code(z, codebook)
    calls["call", True] = lambda: ops.nearest_code(no_rows, codebook)
    yardstick = tensors_of(YARDSTICK)
    calls["direct", None] = lambda: ops.nearest_code(*yardstick)
    counts: dict[tuple, int] = {}
    shares: dict[tuple, list[float]] = {of: [] for of in calls}
    start = time.perf_counter()
    for done in range(1 + MOST_ROUNDS):
        if done > LEAST_ROUNDS and time.perf_counter() - start > seconds_of_size:
            break
        seconds = {}
        for (way, kept), call in calls.items():
            take("auto" if way == "call" else way, bool(kept))
            seconds[way, kept] = seconds_of(call, counts.get((way, kept), 1))
        if not counts:  # the first round
            counts = {of: max(1, int(TURN_SECONDS / spent)) for of, spent in seconds.items()}
            continue
        for of in calls:
            shares[of].append(seconds[of] / seconds["direct", None])
    del shares["direct", None]
    return {of: YARDSTICK_NS * statistics.median(values) for of, values in shares.items()}


def measure(file: Path, part: str, which: str) -> None:
    number, parts = (int(x) for x in part.split("/"))
    stored = json.loads(file.read_text()) if file.exists() else []
    for size in tqdm(sizes(which)[number - 1 :: parts], unit="size"):
        times = times_of(size, SIZE_SECONDS[which])
        stored += [[*size, way, kept, ns] for (way, kept), ns in times.items()]
    file.write_text(json.dumps(stored))


def load(file: Path) -> dict[Size, Times]:
    """The median of what was measured, if it was more than once."""
    every: dict[Size, dict[tuple[str, bool], list[float]]] = {}
    for n, k, d, way, kept, ns in json.loads(file.read_text()):
        every.setdefault((n, k, d), {}).setdefault((way, kept), []).append(ns)
    return {
        size: {of: statistics.median(times) for of, times in found.items()}
        for size, found in every.items()
    }


def boxes_cycles(k: int, d: int) -> float:
    dims = sorted(BOXES)
    a = np.exp(np.interp(d, dims, [np.log(BOXES[x][0]) for x in dims]))
    p = np.interp(d, dims, [BOXES[x][1] for x in dims])
    return a * (k / 1024) ** p


def search_features(way: str, n: int, k: int, d: int) -> list[float]:
    """What the time of a search is linear in; nearest_code_cost.cpp has the same."""
    if way == "boxes":
        return [1, n, n * d, n * boxes_cycles(k, d)]
    if way == "direct":
        return [1, n, n * d, n * k, n * k * d, k, k * d]
    times = 4 if d == 1 and k > 128 else 1  # on a crowded line
    return [1, *(times * x for x in (n, n * d, n * k, n * k * d))]


def pack_features(way: str, k: int, d: int) -> list[float]:
    """What the time of packing is linear in; nearest_code_cost.cpp has the same."""
    if way == "boxes":
        return [1, k, k * max(0, np.log2(k / 32)), k * d]
    far = 1.9 if 4 * k * d > 2 << 20 else 1
    return [1, k, far * k * d]


def fit(
    name: str, features: list[list[float]], times: list[float], calls: list[float]
) -> np.ndarray:
    """Least squares of the errors relative to whole calls, of which the times are parts.

    No coefficient is below 0.
    """
    weights = 1 / np.array(calls)
    found = nnls(np.array(features) * weights[:, None], np.array(times) * weights)[0]
    error = 1 + (np.array(features) @ found - np.array(times)) * weights
    print(f"{name:14s}", *(f"{x:.4g}," for x in found), end="  ")
    print(f"ratio {np.percentile(error, 5):.2f} to {np.percentile(error, 95):.2f}")
    return found


def fit_level(measured: dict[Size, Times], file: Path) -> None:
    if missing := set(CODES) - {k for _, k, _ in measured}:
        raise SystemExit(f"nothing was measured with {missing} codes: measure anew")
    call_time = statistics.median(times["call", True] for times in measured.values())
    print("call, row, row_element, pair, pair_element, code, code_element; pack_call, code, ...")
    packed, anew = {}, {}  # curves of the correction, by way
    for way in WAYS:
        have = [size for size in measured if (way, True) in measured[size]]
        if not have:  # the level does not have it
            continue
        if way == "boxes":
            have = [size for size in have if size[2] <= 16]
        hashing = {(n, k, d): 0 if way == "direct" else 100 + 0.2 * k * d for n, k, d in have}
        kept = {size: measured[size][way, True] for size in have}
        search = {size: kept[size] - call_time - hashing[size] for size in have}
        features = {size: search_features(way, *size) for size in have}
        found = fit(f"{way} search", [*features.values()], [*search.values()], [*kept.values()])
        formula = {size: features[size] @ found for size in have}
        packed[way] = {size: search[size] / formula[size] for size in have}
        if way == "direct":
            continue
        whole = {size: measured[size][way, False] for size in have}
        packing = [whole[size] - kept[size] + hashing[size] for size in have]
        features = {size: pack_features(way, *size[1:]) for size in have}
        found = fit(f"{way} pack", [*features.values()], packing, [*whole.values()])
        anew[way] = {
            size: (whole[size] - call_time) / (formula[size] + features[size] @ found)
            for size in have
        }
    file.write_text("".join(table_of(ratios) for ratios in (*packed.values(), *anew.values())))


def table_of(ratios: dict[Size, float]) -> str:
    """One curve of nearest_code_correction.cpp: percents by dimension, codes and rows."""
    lines = []
    for d in DIMS:
        codes: list[list[int]] = []
        for k in CODES:
            percents = [0]
            for place, n in enumerate(ROWS):
                ratio = ratios.get((n, k, d))
                if ratio is not None:
                    percent = max(-90, round(100 * ratio) - 100)
                else:
                    # Too large to be measured: as with fewer rows; but with the most codes only so
                    # few rows are measured that memory bounds them: more are as with fewer codes.
                    percent = codes[-1][place] if k == CODES[-1] else percents[-1]
                percents.append(percent)
            codes.append(percents[1:])
        lines.append("{{" + "}, {".join(", ".join(map(str, row)) for row in codes) + "}},\n")
    return "{\n" + "".join(lines) + "},\n"


def check_choice(measured: dict[Size, Times], most: int) -> None:
    """The sizes at which the op's own choice loses most against the fastest way."""
    lost = []
    for size, times in measured.items():
        z, codebook = tensors_of(size)
        for kept in (True, False):
            take("auto", kept)
            for _ in range(1 + kept):
                way_taken()
                ops.nearest_code(z, codebook)
            chosen = way_taken()
            best = min((way for way in WAYS if (way, kept) in times), key=lambda w: times[w, kept])
            lost.append((times[chosen, kept] / times[best, kept], size, kept, chosen, best))
    lost.sort(reverse=True)
    ratios = np.array([entry[0] for entry in lost])
    print(f"{len(lost)} cases: mean {ratios.mean():.3f}, above 1.05: {(ratios > 1.05).mean():.1%}")
    for ratio, (n, k, d), kept, chosen, best in lost[:most]:
        packed = "packed before" if kept else "packed anew"
        print(f"{ratio:.2f}  {n} x {k} x {d}, {packed}: {chosen}, {best} is faster")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("measure", "fit", "check"))
    parser.add_argument("file", type=Path)
    parser.add_argument("correction", type=Path, nargs="?", help="to be written, for `fit`")
    parser.add_argument("--sizes", choices=AXES, default="grid", help="that `measure` takes")
    parser.add_argument("--slice", default="1/1", help="of the sizes, for `measure`")
    parser.add_argument("--most", type=int, default=40, help="lines that `check` prints")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("SIMD level", _native.cpu_features()["selected"])
    if arguments.what == "measure":
        measure(arguments.file, arguments.slice, arguments.sizes)
    elif arguments.what == "fit":
        if arguments.correction is None:
            parser.error("fit needs a second file, for the correction")
        fit_level(load(arguments.file), arguments.correction)
    else:
        check_choice(load(arguments.file), arguments.most)
