"""Installs one wheel into clean environments, each with another torch, and runs the op tests there.

    make wheel-test                                      # the newest wheel in dist/
    make wheel-test ARGS="--environment 3.11:2.13.0"     # Python 3.11, torch 2.13.0, that alone
    make wheel-test ARGS="--select test_registration"    # some of the tests

The tests lie in a folder apart, so that nothing but the installed package can be imported, and the
installed libraries are compared with those in the wheel byte by byte. What passed becomes a row in
docs/wheels.md. An environment takes up to 8 GB while it lasts; there is one at a time.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
import zipfile
from dataclasses import dataclass
from pathlib import Path

from build_wheel import ROOT, find_pythons

PAGE = ROOT / "docs" / "wheels.md"
BEGIN, END = "<!-- wheel-test: make wheel-test writes from here -->\n", "<!-- to here -->"
HEAD = """\
| wheel | Python | torch | tests | import, ms | installing, s | tests, s | machine | day |
|---|---|---|---|---|---|---|---|---|
"""
NEWEST = "newest"
# Python and torch; the newest torch with two Pythons.
ENVIRONMENTS = ("3.10:2.10.0", "3.11:2.12.0", "3.11:2.13.0", f"3.12:{NEWEST}", f"3.13:{NEWEST}")
# The ops, on tensors and on arrays. What needs the sources or the benchmarks stays at home.
TESTS = ("tests/ops/*.py", "tests/test_numpy*.py", "tests/conftest.py")
AT_HOME = ("test_neon.py", "test_avx512.py", "test_exactness.py", "test_peak_memory.py")
NEEDED = ("numpy", "pytest", "hypothesis")
PROBE = """
import hashlib, json, pathlib, time, torch
started = time.perf_counter()
import vqgan_fast
seconds = time.perf_counter() - started
import vqgan_fast._native
from vqgan_fast import _library
package = pathlib.Path(vqgan_fast.__file__).parent
libraries = package.glob("*.so")
digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in libraries}
print(json.dumps({
    "torch": torch.__version__,
    "package": str(package),
    "import_ms": 1000 * seconds,
    "digests": digests,
    "libraries": {status.name: status.reason for status in _library.load_libraries()},
}))
"""
# The package itself loads it only where a driver is; that every symbol is found shows without one.
PROBE_CUDA = """
import torch
from vqgan_fast import _library
_library.load_libraries()
file = _library._FOLDER / _library.CUDA_LIBRARY
if torch.version.cuda is None or not file.is_file():
    print("")
else:
    torch.ops.load_library(str(file))
    kernel = torch._C._dispatch_has_kernel_for_dispatch_key("vqgan_fast::nearest_code", "CUDA")
    print("CUDA library loads" if kernel else "CUDA library loads and registers **nothing**")
"""


@dataclass
class Result:
    """One environment: what was in it and what came of it."""

    python: str
    torch: str
    outcome: str
    import_ms: float = float("nan")
    install_s: float = float("nan")
    tests_s: float = float("nan")

    def row(self, wheel: Path) -> str:
        def number(value: float, text: str) -> str:
            return "" if value != value else format(value, text)

        cells = (
            wheel.name, self.python, self.torch, self.outcome, number(self.import_ms, ".1f"),
            number(self.install_s, ".0f"), number(self.tests_s, ".0f"), platform.machine(),
            datetime.date.today().isoformat(),
        )  # fmt: skip
        return f"| {' | '.join(cells)} |"


def try_wheel(wheel: Path, python: str, version: str, torch: str, select: str | None) -> Result:
    """Makes the environment, installs, compares, tests; the environment is removed again."""
    with tempfile.TemporaryDirectory(prefix="wheel-test-") as temporary:
        folder = Path(temporary)
        clean = {
            key: value for key, value in os.environ.items() if not key.startswith("PYTHON")
        } | {"TMPDIR": temporary}
        subprocess.run([python, "-m", "venv", str(folder / "venv")], check=True)
        interpreter = str(folder / "venv" / "bin" / "python")
        started = time.monotonic()
        pip = [interpreter, "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
        pip.append("--no-cache-dir")
        wanted = "torch" if torch == NEWEST else f"torch=={torch}"
        for packages in ([wanted, *NEEDED], ["--no-deps", str(wheel)]):
            done = subprocess.run([*pip, *packages], capture_output=True, text=True, env=clean)
            if done.returncode != 0:
                print(done.stderr, file=sys.stderr)
                return Result(version, torch, f"{packages[-1]} could not be installed")
        install_s = time.monotonic() - started

        command = [interpreter, "-c", PROBE]
        probed = subprocess.run(command, capture_output=True, text=True, env=clean, cwd=folder)
        if probed.returncode != 0:
            print(probed.stderr, file=sys.stderr)
            return Result(version, torch, "does not load", install_s=install_s)
        told = json.loads(probed.stdout.splitlines()[-1])
        assert told["package"].startswith(temporary), told
        assert told["digests"] == digests(wheel), "the installed libraries are not the wheel's"

        started = time.monotonic()
        outcome = run_tests(folder, interpreter, clean, select)
        tests_s = time.monotonic() - started
        command = [interpreter, "-c", PROBE_CUDA]
        forced = subprocess.run(command, capture_output=True, text=True, env=clean, cwd=folder)
        if forced.returncode != 0:
            print(forced.stderr, file=sys.stderr)
            outcome += "; CUDA library **does not load**"
        elif forced.stdout.strip():
            outcome += f"; {forced.stdout.strip()}"
        for name, reason in told["libraries"].items():
            print(f"  {name}: {reason or 'loaded'}")
        return Result(version, told["torch"], outcome, told["import_ms"], install_s, tests_s)


def run_tests(folder: Path, interpreter: str, environment: dict[str, str], select: str | None):
    for pattern in TESTS:
        for file in ROOT.glob(pattern):
            if file.name not in AT_HOME:
                target = folder / file.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(file, target)
    (folder / "pytest.ini").write_text("[pytest]\npythonpath = tests\n")
    command = [interpreter, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junit-xml=told.xml"]
    command += ["-k", select] if select else []
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    print("\n".join(done.stdout.splitlines()[-5:]))
    if not (folder / "told.xml").is_file():
        return "pytest did not finish"
    suite = ElementTree.parse(folder / "told.xml").getroot().find("testsuite")
    count = {key: int(suite.get(key)) for key in ("tests", "failures", "errors", "skipped")}
    failed = count["failures"] + count["errors"]
    passed = count["tests"] - failed - count["skipped"]
    if not passed and not failed:
        return "**nothing was tested**" + (f" ({select})" if select else "")
    skipped = f", {count['skipped']} skipped" if count["skipped"] else ""
    which = f" ({select})" if select else ""
    return f"{passed} passed{skipped}{which}" if not failed else f"**{failed} failed**{which}"


def digests(wheel: Path) -> dict[str, str]:
    with zipfile.ZipFile(wheel) as archive:
        return {
            Path(name).name: hashlib.sha256(archive.read(name)).hexdigest()
            for name in archive.namelist()
            if name.endswith(".so")
        }


def newest_wheel() -> Path:
    wheels = sorted((ROOT / "dist").glob("*.whl"), key=lambda path: path.stat().st_mtime)
    if not wheels:
        sys.exit("there is no wheel in dist/: make wheel builds one")
    return wheels[-1]


def write_row(result: Result, wheel: Path) -> None:
    """Puts a row into the page; one of the same wheel, Python and torch goes."""
    before, rest = PAGE.read_text().split(BEGIN)
    table, after = rest.split(END)
    row = result.row(wheel)
    same = row.split("|")[:4]
    old = [line for line in table.splitlines()[2:] if line and line.split("|")[:4] != same]
    PAGE.write_text(before + BEGIN + HEAD + "\n".join([*old, row]) + "\n" + END + after)


def main() -> None:
    parser = argparse.ArgumentParser(description="Test one wheel beside several torches.")
    parser.add_argument("wheel", nargs="?", type=Path, help="default: the newest in dist/")
    parser.add_argument(
        "--environment",
        action="append",
        metavar="PYTHON:TORCH",
        help=f"such as 3.11:2.13.0 or 3.12:{NEWEST}; default: {' '.join(ENVIRONMENTS)}",
    )
    parser.add_argument("--select", metavar="EXPRESSION", help="pytest's -k")
    parser.add_argument("--keep", action="store_true", help="leave docs/wheels.md alone")
    args = parser.parse_args()
    wheel = (args.wheel or newest_wheel()).resolve()
    pythons = find_pythons([])
    tested = failed = 0
    for environment in args.environment or ENVIRONMENTS:
        version, _, torch = environment.partition(":")
        if not torch:
            parser.error(f"--environment must be PYTHON:TORCH, got {environment}")
        if version not in pythons:
            print(f"Python {version}: not on this machine, left out")
            failed += args.environment is not None  # it was asked for by name
            continue
        tested += 1
        print(f"Python {version}, torch {torch}", flush=True)
        result = try_wheel(wheel, pythons[version], version, torch, args.select)
        print(f"  torch {result.torch}: {result.outcome}", flush=True)
        failed += "passed" not in result.outcome or "**" in result.outcome
        if not args.keep:
            write_row(result, wheel)
    if failed or not tested:
        sys.exit(f"{failed} environments did not pass" if failed else "none of the Pythons is here")


if __name__ == "__main__":
    main()
