"""Times nearest_code on a GPU beside torch and flash-kmeans, and what the card can do at most.

    python benchmarks/gpu_speed.py [--quick] [--ways WAY...] [--last WAY...] [--output FILE]

Each contender is captured in a CUDA graph and replayed, so that launches cost what they cost a
training step; one that cannot be is called. Some milliseconds of replays, one behind the other, are
timed between two events; contenders take turns, and the figure is the median. Inputs are the same
in every round, so that what fits the L2 is warm there, for all. Indices are compared with the fp64
search before anything is timed, and every contender's share of wrong ones stands beside its time.

Ours are timed alone for all shapes first, way by way: an illegal access, of a peer too, ends what
this process can do on the GPU. Then ours and the peers take turns, and those figures take the place
of the first ones. "exact" searches as VQGAN_FAST_CUDA_SEARCH says, "exact by WAY" goes that way.

The output is written anew after every shape. Ends with status 1 if an exact one of ours was wrong,
or one of ours failed.
"""

from __future__ import annotations

import argparse
import itertools
import re
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_contenders import WAYS, Search, by_ways, ours, peers, search_way, told
from gpu_report import commit, failed, kernels, merge, table, write
from torch import Tensor

from vqgan_fast import ops

# N, K, D and the goals in milliseconds: exact fp32, bf16 (issue of the first GPU kernels; an H200).
GOALS = {
    (65536, 16384, 256): (1.15, 0.95),
    (65536, 8192, 8): (0.100, 0.075),
    (8192, 262144, 256): (2.4, 1.9),
    (256, 1024, 256): (0.012, 0.008),
}
MORE_SHAPES = [
    (4096, 16384, 256),
    (65536, 16384, 64),
    (65536, 1024, 4),
    (32768, 8192, 32),
    (1, 16384, 256),
]
ROUNDS = 15
ROUND_MS = 2.0  # of one contender: more of the short ones
GRAPH_MS = 0.2  # of one graph: launching it takes some microseconds, as long as a short search
Shape = tuple[int, int, int]
Contenders = Callable[[Tensor, Tensor], dict[str, Search]]


def milliseconds(run: Callable[[], Any], times: int = 1) -> float:
    """Of one of so many calls in a row. The GPU is kept waiting until they are on their way."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(200_000)  # clock cycles
    start.record()
    for _ in range(times):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / times


def captured(run: Search) -> tuple[Callable[[], Any], int]:
    """A replay of `run`, of a short one several in a row, and how many; else `run`, warm, and 0."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    # By itself a search takes longer than in a graph, which so never takes more than GRAPH_MS.
    searches = max(1, min(50, int(GRAPH_MS / milliseconds(run, 5))))
    torch.cuda.empty_cache()  # a graph keeps memory of its own
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            for _ in range(searches):
                kept = run()
    except RuntimeError:
        torch.cuda.synchronize()
        return run, 0

    def replay(kept=kept):  # the graph writes into what it was captured with
        graph.replay()
        return kept

    return replay, searches


def kernel_times(shape: Shape, dtype: torch.dtype) -> dict[str, float]:
    """Milliseconds that each kernel of "exact" takes, by torch's profiler; {} where that fails.

    Where it has looked once, launches may cost more: to be called behind all other measurements.
    """
    z, codebook = inputs(shape, dtype)
    calls = 5
    try:
        activities = [torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profile:
            for _ in range(calls):
                ops.nearest_code(z, codebook, "exact", False)
            torch.cuda.synchronize()
        times: dict[str, float] = {}
        for event in profile.key_averages():
            if event.self_device_time_total > 0:
                short = re.search(r"(\w+(?:<[^<>]*>)?)\(", event.key)
                name = short[1] if short else event.key
                times[name] = times.get(name, 0.0) + event.self_device_time_total / 1e3 / calls
    except Exception as error:  # the times of whole calls do not depend on it
        print(f"no times of kernels: {type(error).__name__}: {error}", file=sys.stderr)
        return {}
    return times


def card_peaks() -> dict[str, float]:
    """Bytes a second of a copy (read and written), operations a second of a bf16 product."""
    source = torch.randn(1 << 29, device="cuda")
    target = torch.empty_like(source)
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)
    copies = [milliseconds(lambda: target.copy_(source)) for _ in range(12)][2:]
    products = [milliseconds(lambda: torch.mm(a, b, out=out)) for _ in range(22)][2:]
    return {
        "copy_bytes_per_s": 2 * source.nbytes / (statistics.median(copies) / 1e3),
        "bf16_flops": 2 * 8192**3 / (statistics.median(products) / 1e3),
    }


def inputs(shape: Shape, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    n, k, d = shape
    z, codebook = (torch.randn(m, d, device="cuda").to(dtype) for m in (n, k))
    return z, codebook


def row_of(shape: Shape, dtype: torch.dtype, name: str) -> dict[str, Any]:
    n, k, d = shape
    return {"N": n, "K": k, "D": d, "dtype": str(dtype).removeprefix("torch."), "name": name}


def measure(
    shape: Shape,
    dtype: torch.dtype,
    contenders: Contenders,
) -> list[dict[str, Any]]:
    n, k, d = shape
    z, codebook = inputs(shape, dtype)
    with search_way("exact"):
        rows = torch.randperm(n, device="cuda")[:8192]
        expected = ops.nearest_code(z[rows], codebook, "exact", False)
    replays: dict[str, tuple[Callable[[], Any], int, int]] = {}
    results: dict[str, dict[str, Any]] = {}
    for name, run in contenders(z, codebook).items():
        row = results[name] = row_of(shape, dtype, name)
        try:
            wrong = (run().long()[rows] != expected).float().mean().item()
            replay, searches = captured(run)
            milliseconds(replay)
            times = max(1, min(200, round(ROUND_MS / milliseconds(replay))))
        except Exception as error:  # what cannot is told, and the others go on
            row["error"] = told(error)
            continue
        replays[name] = replay, times, max(1, searches)
        row |= {"wrong": wrong, "graph": searches > 0, "times_ms": []}
    for _ in range(ROUNDS):
        for name, (replay, times, searches) in list(replays.items()):
            try:
                results[name]["times_ms"].append(milliseconds(replay, times) / searches)
            except Exception as error:  # it takes part no longer
                results[name]["error"] = told(error)
                del replays[name], results[name]["times_ms"]
    for name in replays:
        row = results[name]
        times_ms = sorted(row.pop("times_ms"))
        row |= {"ms": statistics.median(times_ms), "min_ms": times_ms[0], "max_ms": times_ms[-1]}
        if name.startswith("exact"):
            row["flops"] = 2.0 * n * k * d / (row["ms"] / 1e3)
            if name == "exact" and shape in GOALS:
                row["goal_ms"] = GOALS[shape][dtype == torch.bfloat16]
    return list(results.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the shapes with goals, fp32 alone")
    parser.add_argument(
        "--ways", nargs="*", default=WAYS[1:], choices=WAYS, help="to be timed besides"
    )
    parser.add_argument(
        "--last", nargs="*", default=[], choices=WAYS, help="ways that may end this process"
    )
    parser.add_argument("--output", type=Path, help="a JSON file")
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    shapes = list(GOALS) if args.quick else [*GOALS, *MORE_SHAPES]
    dtypes = [torch.float32] if args.quick else [torch.float32, torch.bfloat16]
    report: dict[str, Any] = {
        "card": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "commit": commit(),
        "peaks": (peaks := card_peaks()),
        "results": (results := []),
    }
    print(
        f"{report['card']}: copy {peaks['copy_bytes_per_s'] / 1e12:.2f} TB/s, "
        f"bf16 product {peaks['bf16_flops'] / 1e12:.0f} TFLOP/s"
    )

    def save() -> None:
        if args.output:
            write(args.output, report)

    def time_all(contenders: Contenders, alone: bool) -> None:
        for shape, dtype in itertools.product(shapes, dtypes):
            try:
                torch.cuda.empty_cache()
                of_shape = measure(shape, dtype, contenders)
            except Exception as error:  # in what all need, such as the expected indices
                of_shape = [row_of(shape, dtype, "exact") | {"error": told(error)}]
            for row in of_shape:
                row["alone"] = alone
            merge(results, of_shape)
            save()
            if of_shape:
                print(table(of_shape, peaks), flush=True)

    def everyone(z: Tensor, codebook: Tensor) -> dict[str, Search]:
        compiled = (len(z), *codebook.shape) in GOALS
        others = by_ways(args.ways, z, codebook) | peers(z, codebook, compiled)
        return ours(z, codebook) | others

    time_all(ours, alone=True)
    for way in args.ways:
        time_all(partial(by_ways, [way]), alone=True)
    time_all(everyone, alone=False)
    for row in results:
        if row["name"] == "exact" and "error" not in row:
            shape, dtype = (row["N"], row["K"], row["D"]), getattr(torch, row["dtype"])
            row["kernels_ms"] = kernel_times(shape, dtype)
            save()
    for way in args.last:
        time_all(partial(by_ways, [way]), alone=True)
    print(*kernels(results), sep="\n")
    sys.exit(any(map(failed, results)))


if __name__ == "__main__":
    main()
