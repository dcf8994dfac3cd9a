"""The CUDA kernels, compiled by the host's C++ compiler and run on the CPU (emulated/)."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from emulated_kernels import Kernels

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.append(str(HERE.parent / "ops"))  # search_cases, for when tests/ops itself is not run


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
    jobs, objects = [], []
    for source in sorted((ROOT / "csrc" / "kernels" / "cuda").iterdir()):
        if source.suffix not in (".cu", ".cpp"):
            continue
        objects.append(str(folder / f"{source.stem}.o"))
        jobs.append([*command, "-x", "c++", "-c", str(source), "-o", objects[-1]])
    library = folder / "kernels.so"
    oracle = ROOT / "csrc" / "kernels" / "cpu" / "nearest_code_oracle.cpp"
    entries = [str(source) for source in sorted((HERE / "emulated").glob("entry*.cpp"))]
    link = [*command, "-shared", *entries, str(oracle), *objects, "-o", str(library)]

    def run(job):
        done = subprocess.run(job, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(job)}\n{done.stderr}"

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(run, jobs))
    run(link)
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
