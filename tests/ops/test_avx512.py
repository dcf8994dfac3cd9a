"""Kernels of AVX-512, AVX-VNNI and AMX on any CPU with AVX2, emulated, against the definitions."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from kernel_program import ROOT, compile_program, definitions, kernel_sources

HERE = Path(__file__).parent / "avx512"
# These have no AVX-512 kernels.
OTHER_OPS = re.compile(r"^(cache_attention|decode_layers|layer_norm|sample_logits|vector_quantize)")
HEADERS = (
    "immintrin.h",
    "algorithm",
    "cmath",
    "functional",
    "memory",
    "random",
    "string",
    "vector",
)


def compiler() -> str | None:
    names = (os.environ.get("CXX"), "c++", "g++", "clang++")
    return next((path for name in names if name and (path := shutil.which(name))), None)


def runs_avx2() -> bool:
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    flags = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return flags is not None and {"avx2", "fma", "f16c"} <= set(flags[1].split())


def build(folder: Path, options: list[str]) -> Path:
    """check_avx512.cpp with every kernel of these, which find avx512/immintrin.h first."""
    sources = kernel_sources(["avxvnni", "avx512", "avx512vnni", "amx"])
    sources = [source for source in sources if not OTHER_OPS.match(source.stem)]
    flags = ["-std=c++17", "-ffp-contract=off", "-Wno-psabi", "-mavx2", "-mfma", "-mf16c", *options]
    flags += [f"-I{HERE}", f"-I{ROOT / 'csrc'}", *definitions(sources)]
    # The program is such a CPU.
    flags.append("-D__builtin_cpu_supports(name)=1")
    return compile_program(folder, [compiler(), *flags], [*sources, *HERE.glob("*.cpp")], HEADERS)


@pytest.mark.skipif(not runs_avx2(), reason="needs an x86-64 CPU with AVX2")
@pytest.mark.skipif(compiler() is None, reason="needs a C++ compiler")
def test_every_avx512_kernel_follows_its_definition_in_emulation(tmp_path: Path) -> None:
    program = build(tmp_path, ["-O1"])
    run = subprocess.run([program], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    # Every way was gone.
    assert re.search(r"(, [1-9]\d* (fp32|int16|int8|boxes|clusters)){5}", run.stdout), run.stdout
