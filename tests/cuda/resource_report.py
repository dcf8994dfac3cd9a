"""What ptxas makes of each CUDA kernel: `python tests/cuda/resource_report.py` prints the table of
docs/gpu_status.md."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ARCHS = ("75", "80", "86", "89", "90a", "100", "120")
REPORT = re.compile(
    r"Compiling entry function '(?P<name>\w+)' for 'sm_(?P<arch>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


@dataclass(frozen=True)
class KernelReport:
    """One kernel on one architecture; sizes in bytes."""

    name: str
    arch: str
    registers: int
    shared: int
    local: int  # stack frame and spills


def find_nvcc() -> str | None:
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    candidates = [
        os.environ.get("CUDACXX"),
        "nvcc",
        *(f"{home}/bin/nvcc" for home in homes if home),
    ]
    return next((found for name in candidates if name and (found := shutil.which(name))), None)


def known_archs(nvcc: str) -> list[str]:
    """Those of ARCHS that this nvcc compiles for."""
    listing = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True)
    known = set(re.findall(r"compute_(\d+)", listing.stdout))
    return [arch for arch in ARCHS if arch.rstrip("a") in known]


def resource_report(nvcc: str) -> list[KernelReport]:
    """Compiles every kernel for every architecture and reads what ptxas says."""
    flags = ["-std=c++17", "-I", str(ROOT / "csrc"), "-Xptxas", "-v"]
    for arch in known_archs(nvcc):
        flags += ["-gencode", f"arch=compute_{arch},code=sm_{arch}"]
    sources = sorted((ROOT / "csrc" / "kernels" / "cuda").glob("*.cu"))

    def report(source: Path) -> list[KernelReport]:
        with tempfile.TemporaryDirectory() as folder:
            command = [nvcc, *flags, "-c", str(source), "-o", f"{folder}/{source.stem}.o"]
            done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
        return parse_report(done.stdout + done.stderr)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [kernel for reports in pool.map(report, sources) for kernel in reports]


def parse_report(text: str) -> list[KernelReport]:
    reports = []
    for found in REPORT.finditer(text):
        shared = re.search(r"(\d+) bytes smem", found["rest"])
        reports.append(
            KernelReport(
                name=re.search(r"([a-z_]+_kernel)E", found["name"])[1],
                arch=found["arch"],
                registers=int(found["registers"]),
                shared=int(shared[1]) if shared else 0,
                local=sum(int(found[key]) for key in ("stack", "stores", "loads")),
            )
        )
    return reports


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
        registers = " | ".join(str(by_arch[arch].registers) for arch in archs)
        lines.append(f"| `{name}` | {shared} B | {registers} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown_table(resource_report(find_nvcc() or "nvcc")))
