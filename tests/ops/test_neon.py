"""The kernels of 64-bit ARM against the definition: natively there, elsewhere under qemu."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KERNELS = ROOT / "csrc" / "kernels" / "cpu"
# A level of another architecture; what has no level in its name is for all.
FOREIGN = re.compile(r"_(avx2|avx512|avx512vnni)$")
LEVEL = re.compile(r"^(.+)_neon$")
# Of these ops nothing is called: that they are C++ for ARM is all there is to see, and no code of
# theirs is made.
UNCALLED = re.compile(
    r"^(cache_attention|code_groups|code_sums|codebook_stats|decode_layers|layer_norm"
    r"|packed_linear|sample_logits|soft_assign|vector_quantize)"
)
STANDARD = ("algorithm", "cmath", "functional", "memory", "string", "vector")

NATIVE = platform.machine() in ("aarch64", "arm64")
COMPILER = shutil.which("c++" if NATIVE else "aarch64-linux-gnu-g++")
EMULATOR = None if NATIVE else shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")


def compile_program(folder: Path) -> Path:
    """Every kernel of the search and check_neon.cpp, linked statically."""
    assert COMPILER is not None
    sources = [s for s in sorted(KERNELS.glob("*.cpp")) if not FOREIGN.search(s.stem)]
    levels = [m[1].upper() for s in sources if (m := LEVEL.match(s.stem))]
    screens = [s.stem.upper() for s in sources if re.fullmatch("screen_(fp32|int16|boxes)", s.stem)]
    flags = ["-O2", "-std=c++17", "-ffp-contract=off", f"-I{ROOT / 'csrc'}"]
    flags += [f"-DVQGAN_FAST_HAS_{name}_NEON" for name in levels]
    flags += [f"-DHAS_{name}" for name in screens]

    # Half of the time goes into these: they are read once for all sources.
    standard = folder / "standard.h"
    standard.write_text("".join(f"#include <{name}>\n" for name in STANDARD))
    header = ["-x", "c++-header", standard, "-o", f"{standard}.gch"]
    subprocess.run([COMPILER, *flags, *header], check=True)

    def compile_one(source: Path) -> Path | None:
        command = [COMPILER, *flags, "-include", standard]
        if UNCALLED.search(source.stem):
            subprocess.run([*command, "-fsyntax-only", source], check=True)
            return None
        compiled = folder / f"{source.stem}.o"
        subprocess.run([*command, "-c", source, "-o", compiled], check=True)
        return compiled

    sources.append(Path(__file__).parent / "neon" / "check_neon.cpp")
    with ThreadPoolExecutor() as pool:
        compiled = [path for path in pool.map(compile_one, sources) if path]
    program = folder / "check_neon"
    subprocess.run([COMPILER, "-static", *compiled, "-o", program, "-pthread"], check=True)
    return program


@pytest.mark.skipif(
    COMPILER is None or not (NATIVE or EMULATOR),
    reason="needs an aarch64 CPU, or aarch64-linux-gnu-g++ and qemu-aarch64",
)
def test_every_kernel_of_64_bit_arm_follows_the_definition(tmp_path: Path) -> None:
    command = [*([EMULATOR] if EMULATOR else []), compile_program(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    assert re.search(r"neon: [1-9]\d* codebooks screened", run.stdout)
