"""Compiles kernels of csrc/kernels/cpu and what checks them into one program, for emulators."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType

ROOT = Path(__file__).resolve().parents[2]
KERNELS = ROOT / "csrc" / "kernels" / "cpu"
LEVEL = re.compile(r"^(.+)_(avx2|avxvnni|avx512|avx512vnni|amx|neon|neondot)$")


def kernel_sources(levels: Sequence[str]) -> list[Path]:
    """The kernels that are for every CPU, and those of some SIMD levels."""
    sources = sorted(KERNELS.glob("*.cpp"))
    return [s for s in sources if not (match := LEVEL.match(s.stem)) or match[2] in levels]


def definitions(sources: Iterable[Path]) -> list[str]:
    """What tells the dispatchers of the levels among the sources, as CMakeLists.txt does."""
    return [f"-DVQGAN_FAST_HAS_{s.stem.upper()}" for s in sources if LEVEL.match(s.stem)]


def compile_program(
    folder: Path,
    command: Sequence[str | Path],
    sources: Sequence[Path],
    common_headers: Sequence[str],
    only_parsed: re.Pattern[str] | None = None,
    link: Sequence[str] = (),
    level_options: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Path:
    """
    A program, made in `folder` by the compiler and options of `command`.

    The common headers, most of what there is to read, are read once for all sources. Of what
    `only_parsed` matches no code is made: that it is C++ is all there is to see. The kernels of a
    SIMD level are compiled with its `level_options` besides.
    """
    common = folder / "common.h"
    common.write_text("".join(f"#include <{name}>\n" for name in common_headers))
    header = ["-x", "c++-header", common, "-o", f"{common}.gch"]
    subprocess.run([*command, *header], check=True)

    def compile_one(source: Path) -> Path | None:
        level = LEVEL.match(source.stem)
        one = [*command, *(level_options.get(level[2], ()) if level else ()), "-include", common]
        if only_parsed and only_parsed.search(source.stem):
            subprocess.run([*one, "-fsyntax-only", source], check=True)
            return None
        compiled = folder / f"{source.stem}.o"
        subprocess.run([*one, "-c", source, "-o", compiled], check=True)
        return compiled

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        compiled = [path for path in pool.map(compile_one, sources) if path]
    program = folder / "program"
    subprocess.run([*command, *link, *compiled, "-o", program, "-pthread"], check=True)
    return program
