"""What ptxas makes of each CUDA kernel: `python tests/cuda/resource_report.py` prints the table of
docs/gpu_status.md.

The build keeps what ptxas tells in a file beside each object (csrc/keep_ptxas_report.sh), so that
nothing is compiled for this.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}-cuda"
ARCHS = ("75", "80", "86", "89", "90a", "100", "120")
REPORT = re.compile(
    r"Compiling entry function '(?P<name>\w+)' for 'sm_(?P<arch>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)
# What ptxas could not do as it was told: registers that stay where they are, products in turn.
ADVICE = re.compile(r"^ptxas (?:info|warning) *: (\(C\d+\) .*)", re.MULTILINE)
# The kernel's own name, and what it is instantiated with (numbers, types of C++, structs):
# 13linear_kernelIaLi8EEEv -> linear_kernel<int8_t, 8>.
VALUE = re.compile(r"L[a-z](\d+)E|NS\d*_\d+([A-Za-z]+?)E|([a-z])")
NAME = re.compile(rf"\d+(?P<kernel>[a-z]\w*?_kernel)(?:I(?P<values>(?:{VALUE.pattern})+)E)?E")
TYPES = {"d": "double", "a": "int8_t", "t": "uint16_t", "f": "float"}


@dataclass(frozen=True)
class KernelReport:
    """One kernel on one architecture; sizes in bytes."""

    name: str
    arch: str
    registers: int
    shared: int
    local: int  # stack frame and spills


def kernel_name(mangled: str) -> str:
    found = list(NAME.finditer(mangled))[-1]
    kernel = re.sub(r"^.*\d", "", found["kernel"])  # the name's own length may stand before it
    values = [
        number or struct or TYPES[letter]
        for number, struct, letter in VALUE.findall(found["values"] or "")
    ]
    return f"{kernel}<{', '.join(values)}>" if values else kernel


def parse_report(text: str) -> list[KernelReport]:
    reports = []
    for found in REPORT.finditer(text):
        shared = re.search(r"(\d+) bytes smem", found["rest"])
        reports.append(
            KernelReport(
                name=kernel_name(found["name"]),
                arch=found["arch"],
                registers=int(found["registers"]),
                shared=int(shared[1]) if shared else 0,
                local=sum(int(found[key]) for key in ("stack", "stores", "loads")),
            )
        )
    return reports


def kept_texts(build: Path = BUILD) -> dict[str, str]:
    """What ptxas told in the last CUDA build, by source, such as nearest_code_mma.cu."""
    return {
        path.name.removesuffix(".o.ptxas"): path.read_text()
        for path in sorted(build.glob("CMakeFiles/*.dir/csrc/kernels/cuda/*.ptxas"))
    }


def kept_reports(build: Path = BUILD) -> dict[str, list[KernelReport]]:
    """Reports of the last CUDA build by source; empty without one."""
    return {name: parse_report(text) for name, text in kept_texts(build).items()}


def markdown_table(reports: list[KernelReport]) -> str:
    archs = [arch for arch in ARCHS if any(report.arch == arch for report in reports)]
    kernels: dict[str, dict[str, KernelReport]] = defaultdict(dict)
    for report in reports:
        kernels[report.name][report.arch] = report
    lines = [
        f"| kernel | shared memory | {' | '.join(f'sm_{arch}' for arch in archs)} |",
        "|---|---|" + "---|" * len(archs),
    ]
    for name, by_arch in kernels.items():
        shared = max(report.shared for report in by_arch.values())
        registers = " | ".join(
            str(by_arch[arch].registers) if arch in by_arch else "-" for arch in archs
        )
        lines.append(f"| `{name}` | {shared} B | {registers} |")
    return "\n".join(lines)


if __name__ == "__main__":
    kept = kept_reports()
    if not kept:
        sys.exit(f"{BUILD} has no reports: build with nvcc first (VQGAN_FAST_CUDA=1)")
    print(markdown_table([report for reports in kept.values() for report in reports]))
