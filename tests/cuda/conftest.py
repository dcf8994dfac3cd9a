"""The CUDA kernels, compiled by the host's C++ compiler and run on the CPU (emulated/)."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from emulated_kernels import Kernels
from torch.overrides import TorchFunctionMode

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.append(str(HERE.parent / "ops"))  # search_cases, for when tests/ops itself is not run
SEED = int(os.environ.get("VQGAN_FAST_TEST_SEED") or time.time_ns() % 10**9)


@pytest.fixture(scope="session")
def kernel_library(tmp_path_factory):
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return Kernels(build(tmp_path_factory.mktemp("emulated")))
    # Workers share their temporary folder's parent: the first builds, the others wait for it.
    folder = tmp_path_factory.getbasetemp().parent / "emulated"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        library = folder / "kernels.so"
        return Kernels(library if library.exists() else build(folder))


def build(folder: Path) -> Path:
    """The shared library of all kernels, made in `folder`."""
    names = (os.environ.get("CXX"), "c++", "g++", "clang++")
    compiler = next((name for name in names if name and shutil.which(name)), None)
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    includes = ["-I", str(HERE / "emulated"), "-I", str(ROOT / "csrc")]
    # No contraction: device code is compared with the CPU's sums to the bit.
    # Fibers jump between stacks, which fortified libraries take for a fault.
    command = [compiler, "-std=c++17", "-O2", "-fPIC", "-ffp-contract=off", "-U_FORTIFY_SOURCE"]
    command += ["-DVQGAN_FAST_HAS_SM90A", *includes]
    # The runtime and what it includes are most of what there is to read: it is read once.
    runtime = folder / "runtime.h"
    runtime.write_text("#include <cuda_runtime_api.h>\n")
    cuda = (ROOT / "csrc" / "kernels" / "cuda").iterdir()
    sources = [source for source in sorted(cuda) if source.suffix in (".cu", ".cpp")]
    sources += sorted((HERE / "emulated").glob("entry*.cpp"))
    sources.append(ROOT / "csrc" / "kernels" / "cpu" / "nearest_code_oracle.cpp")
    jobs, objects = [], []
    for source in sources:
        objects.append(str(folder / f"{source.stem}.o"))
        options = ["-include", str(runtime), "-x", "c++", "-c", str(source), "-o", objects[-1]]
        jobs.append([*command, *options])
    library = folder / "kernels.so"

    def run(job):
        done = subprocess.run(job, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(job)}\n{done.stderr}"

    run([*command, "-x", "c++-header", str(runtime), "-o", f"{runtime}.gch"])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(run, jobs))
    run([compiler, "-shared", *objects, "-o", str(library)])
    return library


@pytest.fixture
def kernels(kernel_library):
    kernel_library.emulate()
    return kernel_library


@pytest.fixture
def poisoned():
    """What torch leaves uninitialised is NaN or the largest integer: a result that a kernel does
    not write shows, and so does scratch memory that it reads too early. VQGAN_FAST_TEST_POISON=0
    leaves it uninitialised, for tools that look for that."""
    poison = os.environ.get("VQGAN_FAST_TEST_POISON") != "0"
    torch.use_deterministic_algorithms(poison, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


class OrdinaryWrites(TorchFunctionMode):
    """Writes by index as ever: those that must be deterministic wait for the GPU in some releases
    of torch, and so cannot be captured in a CUDA graph."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        poison = torch.are_deterministic_algorithms_enabled()
        if func is not torch.Tensor.__setitem__ or not poison:
            return func(*args, **(kwargs or {}))
        torch.use_deterministic_algorithms(False)
        try:
            return func(*args, **(kwargs or {}))
        finally:
            torch.use_deterministic_algorithms(poison, warn_only=True)


@pytest.fixture
def poisoned_steps(poisoned):
    """`poisoned`, for steps that become CUDA graphs."""
    with OrdinaryWrites():
        yield


@pytest.fixture
def fresh_inputs(seeded):
    """For tests on a GPU, where each run is to see other numbers: the seed is printed, and
    VQGAN_FAST_TEST_SEED sets it."""
    print(f"VQGAN_FAST_TEST_SEED={SEED}")
    torch.manual_seed(SEED)
