"""What the machine is and what it can do at most; figures are shares of this.

    python benchmarks/machine.py

prints it as JSON: fp32 multiply-adds (an FMA is two operations) at the CPU's widest vectors, and
bytes read from memory, on one thread and on all. The loops are `machine_peak.cpp`, compiled with
the system's C++ compiler ($CXX, c++) for this very CPU and kept in the user's cache.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import platform
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch

from vqgan_fast import info

ROOT = Path(__file__).resolve().parent.parent
SOURCE = Path(__file__).with_name("machine_peak.cpp")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC", "-pthread")
FMA_STEPS = 1 << 19  # a few milliseconds
READ_FLOATS = 1 << 26  # 256 MiB, beyond every cache


@cache
def _library() -> ctypes.CDLL:
    """The compiled loops. Raises where there is no compiler."""
    model = info.collect()["cpu"]["model"]
    key = hashlib.sha256(SOURCE.read_bytes() + f"{model} {FLAGS}".encode()).hexdigest()[:16]
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    target = home / "vqgan_fast" / f"machine_peak_{key}.so"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        compiler = os.environ.get("CXX", "c++")
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            built = Path(folder) / target.name
            subprocess.run([compiler, *FLAGS, str(SOURCE), "-o", str(built)], check=True)
            built.replace(target)
    library = ctypes.CDLL(str(target))
    for function in (library.peak_fma, library.peak_read):
        function.restype = ctypes.c_double
    return library


def fma_peak(threads: int) -> float:
    """fp32 operations a second, from one run of a few milliseconds."""
    return _library().peak_fma(threads, ctypes.c_int64(FMA_STEPS))


def read_peak(threads: int, runs: int = 5) -> float:
    """Bytes read a second, the best of a few runs."""
    data = torch.zeros(READ_FLOATS)
    pointer = ctypes.cast(data.data_ptr(), ctypes.POINTER(ctypes.c_float))
    count = ctypes.c_int64(data.numel())
    return max(_library().peak_read(threads, pointer, count) for _ in range(runs))


def now() -> float:
    """Seconds: the thread's own, which others disturb little; the wall's where torch has more."""
    return time.thread_time() if torch.get_num_threads() == 1 else time.perf_counter()


def all_threads() -> int:
    """The threads that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe() -> dict[str, Any]:
    """The machine, the versions, the commit, and the peaks in GFLOP/s and GB/s by threads."""
    known = info.collect()
    threads = sorted({1, all_threads()})
    return {
        "cpu": known["cpu"]["model"],
        "cores": all_threads(),
        "arch": platform.machine(),
        "simd": known["cpu"].get("simd"),
        "compiler": known["build"].get("compiler"),
        "torch": torch.__version__,
        "mkl": torch.backends.mkl.is_available(),
        "commit": _commit(),
        "peak_vector_bits": 32 * _library().peak_lanes(),
        "fma_gflops": {n: max(fma_peak(n) for _ in range(20)) / 1e9 for n in threads},
        "read_gb_per_s": {n: read_peak(n) / 1e9 for n in threads},
    }


def _commit() -> str:
    """The checked-out commit, marked where files differ from it; "" outside a checkout."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


if __name__ == "__main__":
    print(json.dumps(describe(), indent=1))
