"""Builds the CPU libraries with AddressSanitizer and UndefinedBehaviorSanitizer and tests them.

`make sanitize` runs this; arguments go to pytest. Where none names a test, it runs those of the ops
and of the numpy face. It fails if a test fails or if any process has left a report, and prints the
reports. The package as installed is not touched: build/sanitize holds a copy with the libraries of
this build.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "sanitize"
# A float that no integer can hold is undefined behaviour too, but not part of "undefined".
SANITIZERS = "address,undefined,float-cast-overflow"
TESTS = ["tests/ops", "tests/test_numpy.py", "tests/test_numpy_bad_input.py"]
# Address space and memory are other ones under AddressSanitizer, torch's graphs are none of ours,
# kernels of other CPUs are emulated, billions of pairs take minutes, and that the comparison with
# fp64 finds what is wrong is seen without.
LEFT_OUT = [
    "gives_no_more", "no_memory_holds", "peak_memory", "compiled", "compiles", "opcheck",
    "64_bit_arm", "in_emulation", "2_to_the_31", "is_found",
]  # fmt: skip


def runtime_libraries() -> str:
    """What must be in the process before Python is, as Python was not linked with it."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        sys.exit("make sanitize needs a C++ compiler: none is on PATH, and CXX names none")
    found = []
    # Behind AddressSanitizer the C++ library, whose exceptions it hooks when it starts.
    for name in ("libasan.so", "libstdc++.so"):
        command = [compiler, f"-print-file-name={name}"]
        path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        if not Path(path).is_file():
            sys.exit(f"make sanitize needs gcc and its {name}, which {compiler} does not have")
        found.append(str(Path(path).resolve()))
    return ":".join(found)


def environment(reports: Path) -> dict[str, str]:
    # Python and torch leave much allocated when they end.
    options = f"log_path={reports / 'report'}:print_stacktrace=1:detect_leaks=0"
    return os.environ | {
        "LD_PRELOAD": runtime_libraries(),
        "ASAN_OPTIONS": options,
        "UBSAN_OPTIONS": options,
        "PYTHONPATH": str(FOLDER),
    }


def absolute(argument: str) -> str:
    """The place of a test, named from the checkout's folder, for pytest that runs in another."""
    return str(ROOT / argument) if (ROOT / argument.partition("::")[0]).exists() else argument


def main(arguments: list[str]) -> int:
    reports = FOLDER / "reports"
    under_sanitizers = environment(reports)
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=ROOT,
        env=os.environ | {"VQGAN_FAST_SANITIZE": SANITIZERS},
        check=True,
    )
    shutil.rmtree(reports, ignore_errors=True)
    reports.mkdir()
    named = any((ROOT / argument.partition("::")[0]).exists() for argument in arguments)
    tests = [] if named else TESTS
    left_out = " and ".join(f"not {name}" for name in LEFT_OUT)
    options = ["-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), "-k", left_out]
    # Beside the other, gcc's UndefinedBehaviorSanitizer does not heed log_path: what it prints must
    # not be lost with the process that captures it.
    options.append("--capture=sys")
    # In the copy's folder: Python and the processes that tests start look there first.
    status = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *map(absolute, [*arguments, *tests])],
        cwd=FOLDER,
        env=under_sanitizers,
    ).returncode
    left = sorted(reports.iterdir())
    for report in left:
        print(f"\n{report}", report.read_text(errors="replace"), sep="\n", file=sys.stderr)
    if left:
        print(f"{len(left)} sanitizer report(s), see above", file=sys.stderr)
    return status or len(left) > 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
