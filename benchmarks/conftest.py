"""What the benchmarks share: an op and its peers timed in turn, after their results were compared.

    make bench                  a choice of shapes, in about ten minutes
    make bench ARGS=--full      every shape, in about forty; --part=1/5 .. 5/5 a part of them each

One line is printed for each case: shape, our median and spread, our rate and its share of the FMA
peak measured in the same rounds, and every peer's time as a multiple of ours (above 1: we are
faster). Caches are warm, as they are behind an encoder.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# MKL would keep to one thread in torch's wheels, and the comparison would flatter us.
os.environ.setdefault("MKL_DYNAMIC", "FALSE")

import contenders  # noqa: F401  loads every peer's thread pool before `threads` sets its size
import machine
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from rotation import Contender, rotate, spread
from threadpoolctl import threadpool_limits

from vqgan_fast import ops


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("benchmarks of the ops")
    group.addoption("--full", action="store_true", help="every shape, not a choice of them")
    group.addoption("--part", default="1/1", help="which of how many parts of the cases to run")
    group.addoption(
        "--case-seconds", type=float, default=2.0, help="time for a case, its peers included"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Makes the folder of --benchmark-json now: the file is written when all has been measured."""
    if written := config.getoption("benchmark_json", None):
        Path(written).parent.mkdir(parents=True, exist_ok=True)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "threads" in metafunc.fixturenames:
        counts = sorted({1, machine.all_threads()})
        metafunc.parametrize("threads", counts, ids=[f"{n}t" for n in counts], indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves the cases of --part: every so many-th, so that all parts take about as long."""
    number, _, parts = config.getoption("--part").partition("/")
    if not (number.isdigit() and parts.isdigit() and 1 <= int(number) <= int(parts)):
        raise pytest.UsageError(f"--part must be I/N with 1 <= I <= N, got {number}/{parts}")
    chosen = items[int(number) - 1 :: int(parts)]
    left = set(items) - set(chosen)
    config.hook.pytest_deselected(items=[item for item in items if item in left])
    items[:] = chosen


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict) -> None:
    machine_info["vqgan_fast"] = machine.describe()


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """The number of threads that torch, MKL, faiss and scikit-learn are held to."""
    before = torch.get_num_threads()
    with threadpool_limits(request.param):
        torch.set_num_threads(request.param)
        yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def compare(
    benchmark: BenchmarkFixture, capsys: pytest.CaptureFixture, request: pytest.FixtureRequest
) -> Callable[..., dict[str, Any]]:
    """Times `ours` beside peers and variants of itself, prints the line, stores the figures."""
    budget = request.config.getoption("--case-seconds")

    def run(
        case: str,
        shape: tuple[int, ...],
        ours: Contender | Callable[[], object],
        *,
        peers: dict[str, Any],
        variants: dict[str, Any] | None = None,
        gflop: float | None = None,
        gigabytes: float | None = None,
        dtype: str = "fp32",
        **further: object,
    ) -> dict[str, Any]:
        variants = variants or {}
        calls = {
            name: call if isinstance(call, Contender) else Contender(call)
            for name, call in ({"ours": ours} | variants | peers).items()
        }
        threads = torch.get_num_threads()
        path = counted(calls["ours"].call)
        peaks: list[float] = []
        times = rotate(calls, budget, lambda: peaks.append(machine.fma_peak(threads)))
        medians = {name: statistics.median(seconds) for name, seconds in times.items()}
        ratios = {name: medians[name] / medians["ours"] for name in calls if name != "ours"}
        figures = {
            "case": case,
            "shape": list(shape),
            "dtype": dtype,
            "threads": threads,
            "seconds": medians,
            "spread": {name: spread(seconds) for name, seconds in times.items()},
            "rounds": {name: len(seconds) for name, seconds in times.items()},
            "ratios": ratios,
            "peers": list(peers),
            "loses_to": [name for name in peers if ratios[name] < 1],
            "path": path,
            **further,
        }
        if gflop is not None:
            rate, peak = gflop / medians["ours"], max(peaks) / 1e9
            figures |= {
                "gflop_per_s": rate,
                "fma_peak_gflop_per_s": peak,
                "share_of_peak": rate / peak,
            }
        if gigabytes is not None:
            rate, peak = gigabytes / medians["ours"], machine.read_peak(threads) / 1e9
            figures |= {
                "gb_per_s": rate,
                "read_gb_per_s": peak,
                "share_of_reading": rate / peak,
            }
        benchmark.extra_info.update(figures)
        # For pytest-benchmark's own table; the figures above are the ones that are comparable.
        benchmark.pedantic(calls["ours"].call, rounds=3 if medians["ours"] < 0.1 else 1)
        with capsys.disabled():
            print("\n" + line(figures), end="", flush=True)
        return figures

    return run


def counted(call: Callable[[], object]) -> dict[str, int]:
    """What the op's counters say of one call: which path it took, which tier decided the rows."""
    counters = getattr(ops, "nearest_code_counters", dict)
    before = dict(counters())
    call()
    changes = {name: count - before.get(name, 0) for name, count in dict(counters()).items()}
    return {name: change for name, change in changes.items() if change != 0}


def line(figures: dict[str, Any]) -> str:
    shape = " x ".join(map(str, figures["shape"]))
    label = f"{figures['case']} {shape} {figures['dtype']}, {figures['threads']}t"
    text = f"{label:52s} {1e3 * figures['seconds']['ours']:9.3f} ms "
    text += f"±{100 * figures['spread']['ours']:2.0f}% "
    if "share_of_peak" in figures:
        text += f"{figures['gflop_per_s']:7.1f} GFLOP/s {100 * figures['share_of_peak']:4.0f}% "
    if "share_of_reading" in figures:
        text += f"{figures['gb_per_s']:6.1f} GB/s {100 * figures['share_of_reading']:4.0f}% "
    text += "  " + "  ".join(f"{name} {ratio:.2f}x" for name, ratio in figures["ratios"].items())
    if figures["path"]:
        text += "  [" + ", ".join(f"{name} {n}" for name, n in figures["path"].items()) + "]"
    if figures["loses_to"]:
        text += "  LOSES TO " + ", ".join(figures["loses_to"])
    return text
