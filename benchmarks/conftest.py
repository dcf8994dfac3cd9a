"""What the benchmarks share: our op and its peers timed in turn, after their results were compared.

    make bench                                    all of them
    python -m pytest benchmarks/bench_nearest_code.py --benchmark-json=results.json

One line is printed for each case: shape, our median and spread, our rate, and every peer's time as
a multiple of ours (above 1: we are faster). Caches are warm, as they are behind an encoder.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

# MKL would keep to one thread in torch's wheels, and the comparison would flatter us.
os.environ.setdefault("MKL_DYNAMIC", "FALSE")

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

# Seconds to spend on a case, shared by all that are timed, and the number of rounds within.
BUDGET = 4.0
LEAST_ROUNDS, MOST_ROUNDS = 3, 60

Call = Callable[[], object]


def interleaved(calls: dict[str, Call]) -> dict[str, list[float]]:
    """Seconds of each call, all of them once a round, so that a busy moment hits all alike."""
    first = {name: _seconds(call) for name, call in calls.items()}  # also warms up
    rounds = int(BUDGET / sum(first.values()))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(min(max(rounds, LEAST_ROUNDS), MOST_ROUNDS)):
        for name, call in calls.items():
            times[name].append(_seconds(call))
    return times


def _seconds(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@pytest.fixture
def compare(
    benchmark: BenchmarkFixture, capsys: pytest.CaptureFixture
) -> Callable[[str, Call, dict[str, Call], float], None]:
    """Times `ours` beside its peers, prints the line, and stores the figures with the benchmark."""

    def run(label: str, ours: Call, peers: dict[str, Call], gflop: float) -> None:
        times = interleaved({"ours": ours, **peers})
        medians = {name: statistics.median(seconds) for name, seconds in times.items()}
        own = sorted(times["ours"])
        spread = (own[-1 - len(own) // 10] - own[len(own) // 10]) / medians["ours"]
        ratios = {name: medians[name] / medians["ours"] for name in peers}
        rate = gflop / medians["ours"]
        benchmark.extra_info.update(
            threads=torch.get_num_threads(), gflop_per_s=rate, spread=spread, ratios=ratios
        )
        benchmark.pedantic(ours, rounds=5, warmup_rounds=1)
        with capsys.disabled():
            times_ours = "   ".join(f"{name} {ratio:.2f}x" for name, ratio in ratios.items())
            print(
                f"\n{label:46s} {1e3 * medians['ours']:9.2f} ms ±{50 * spread:2.0f}% "
                f"{rate:7.1f} GFLOP/s   {times_ours}"
            )

    return run
