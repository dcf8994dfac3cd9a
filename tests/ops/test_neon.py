"""The kernels of 64-bit ARM against the definition: natively there, elsewhere under qemu."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from kernel_program import ROOT, compile_program, definitions, kernel_sources

# Of these ops nothing is called.
UNCALLED = re.compile(
    r"^(cache_attention|code_groups|code_sums|codebook_stats|decode_layers|layer_norm"
    r"|packed_linear|sample_logits|soft_assign|vector_quantize)"
)
HEADERS = ("algorithm", "cmath", "functional", "memory", "string", "vector")

NATIVE = platform.machine() in ("aarch64", "arm64")
COMPILER = shutil.which("c++" if NATIVE else "aarch64-linux-gnu-g++")
EMULATOR = None if NATIVE else shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")


def build(folder: Path) -> Path:
    """Every kernel of the search and check_neon.cpp, linked statically."""
    assert COMPILER is not None
    sources = kernel_sources(["neon", "neondot"])
    screens = [
        s.stem.upper() for s in sources if re.fullmatch("screen_(fp32|int16|int8|boxes)", s.stem)
    ]
    flags = ["-O2", "-std=c++17", "-ffp-contract=off", f"-I{ROOT / 'csrc'}", *definitions(sources)]
    flags += [f"-DHAS_{name}" for name in screens]
    sources.append(Path(__file__).parent / "neon" / "check_neon.cpp")
    return compile_program(
        folder,
        [COMPILER, *flags],
        sources,
        HEADERS,
        only_parsed=UNCALLED,
        link=["-static"],
        level_options={"neondot": ["-march=armv8.2-a+dotprod"]},
    )


def has_dot_products() -> bool:
    """Of bytes: the emulator has everything."""
    return not NATIVE or " asimddp" in Path("/proc/cpuinfo").read_text()


@pytest.mark.skipif(
    COMPILER is None or not (NATIVE or EMULATOR),
    reason="needs an aarch64 CPU, or aarch64-linux-gnu-g++ and qemu-aarch64",
)
def test_every_kernel_of_64_bit_arm_follows_the_definition(tmp_path: Path) -> None:
    command = [*([EMULATOR] if EMULATOR else []), build(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    for level in ("neon", "neondot") if has_dot_products() else ("neon",):
        assert re.search(rf"\b{level}: [1-9]\d* codebooks screened", run.stdout), run.stdout
