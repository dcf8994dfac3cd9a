"""Builds vqgan_fast: drives CMake and Ninja, and is the PEP 517 backend that pyproject.toml names.

Environment variables (docs/building.md explains each):
  VQGAN_FAST_CUDA       auto (default): CUDA library if an nvcc is found; 1: it must be; 0: CPU only
  VQGAN_FAST_CUDA_ARCHS such as "90a" or "80;86;120"; "release": every architecture we ship
  VQGAN_FAST_TORCH_DIR  folder of the torch package to build against, if it is not found by itself
  VQGAN_FAST_SANITIZE   such as "address,undefined": a package apart, in build/sanitize; CPU only
  VQGAN_FAST_PYTHONS    interpreters, separated as in PATH: one wheel for all of them (`make wheel`)
  VQGAN_FAST_LABEL      such as "cu129": the wheel's version becomes 0.1.0+cu129
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import site
import subprocess
import sys
import sysconfig
from pathlib import Path

import setuptools
from setuptools import Extension, build_meta, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # only where pip is told not to install what the build requires
    sys.exit(f"setuptools {setuptools.__version__} is too old: pip install 'setuptools>=77'")

ROOT = Path(__file__).resolve().parent
RELEASE_ARCHS = ["75", "80", "86", "89", "90a", "100", "120"]
OLDEST_TORCH = (2, 10)  # what the LibTorch stable ABI that csrc/ops uses came with


class BuildError(SystemExit):
    """A reason not to build that the user can act on: printed without a traceback."""


# --- Which torch ----------------------------------------------------------------------------------


def torch_version(folder: Path) -> tuple[int, int] | None:
    """(major, minor) of the torch package in `folder`, read without importing it."""
    version_file = folder / "version.py"
    if not version_file.is_file():
        return None
    found = re.search(r"__version__\s*=\s*['\"](\d+)\.(\d+)", version_file.read_text())
    return (int(found[1]), int(found[2])) if found else None


def find_torch() -> Path | None:
    """Folder of an installed torch that the op libraries can be built against.

    pip builds in an environment of its own, yet `sysconfig` goes on naming the folders of the
    environment that it installs into, so that a torch there is found and none is downloaded.
    """
    named = os.environ.get("VQGAN_FAST_TORCH_DIR")
    if named:
        version = torch_version(Path(named))
        if version is None:
            raise BuildError(f"VQGAN_FAST_TORCH_DIR={named} is not the folder of a torch package")
        if version < OLDEST_TORCH:
            oldest, found = (".".join(map(str, pair)) for pair in (OLDEST_TORCH, version))
            raise BuildError(
                f"VQGAN_FAST_TORCH_DIR={named} must hold torch >= {oldest}, got {found}"
            )
        return Path(named)
    places = [*sys.path, sysconfig.get_path("platlib"), sysconfig.get_path("purelib")]
    if site.ENABLE_USER_SITE:
        places.append(site.getusersitepackages())
    for place in places:
        folder = Path(place or ".") / "torch"
        if (torch_version(folder) or (0, 0)) >= OLDEST_TORCH:
            return folder
    return None


# --- Which CUDA -----------------------------------------------------------------------------------


def find_nvcc() -> Path | None:
    named = os.environ.get("CUDACXX")
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    candidates = [named, *(f"{home}/bin/nvcc" for home in homes if home), "nvcc"]
    for candidate in candidates:
        if candidate and (path := shutil.which(candidate)):
            return Path(path)
    return None


def cuda_compiler() -> Path | None:
    """The nvcc to build with; None where the build is to be without CUDA."""
    choice = os.environ.get("VQGAN_FAST_CUDA", "auto").lower()
    if choice not in ("auto", "0", "1"):
        raise BuildError(f"VQGAN_FAST_CUDA must be auto, 0 or 1, got {choice!r}")
    nvcc = None if choice == "0" else find_nvcc()
    if choice == "1" and nvcc is None:
        raise BuildError(
            "VQGAN_FAST_CUDA=1 asks for the CUDA library, but no nvcc was found: put the CUDA "
            "toolkit's bin folder on PATH, or name it with CUDA_HOME, or the compiler itself with "
            "CUDACXX. VQGAN_FAST_CUDA=0 builds for the CPU only."
        )
    return nvcc


def gpu_archs() -> list[str]:
    """Architectures of the GPUs of this machine, as nvcc names them."""
    try:
        command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    archs = {line.strip().replace(".", "") for line in output.splitlines() if line.strip()}
    # The kernels of compute capability 9.0 use instructions that only its "a" variant has.
    return sorted(("90a" if arch == "90" else arch for arch in archs), key=arch_number)


def arch_number(arch: str) -> int:
    return int(re.sub(r"\D", "", arch))


def cuda_archs(nvcc: Path) -> list[str]:
    """The architectures to compile for, lowest first: as asked, else this machine's, else all."""
    asked = os.environ.get("VQGAN_FAST_CUDA_ARCHS", "").strip()
    if asked and asked != "release":
        archs = re.split(r"[;,\s]+", asked)
        wrong = [arch for arch in archs if not re.fullmatch(r"\d{2,3}[af]?", arch)]
        if wrong:
            raise BuildError(
                f'VQGAN_FAST_CUDA_ARCHS must be "release" or a list such as "80;90a", got {asked!r}'
            )
        return sorted(archs, key=arch_number)
    if not asked and (archs := gpu_archs()):
        return archs
    listing = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True).stdout
    known = {int(number) for number in re.findall(r"compute_(\d+)", listing)}
    archs = [arch for arch in RELEASE_ARCHS if arch_number(arch) in known]
    if not archs:
        raise BuildError(
            f"{nvcc} --list-gpu-arch names none of {', '.join(RELEASE_ARCHS)}: it does not work or "
            "is too old. VQGAN_FAST_CUDA=0 builds for the CPU only."
        )
    return archs


def ptx_arch(archs: list[str]) -> str:
    """The architecture to add PTX of, for GPUs that none of the machine code fits.

    The lowest that has the instructions of the tensor-core search, so that it serves what lies
    between the others (8.7, 11.0) as well as what is still to come. PTX of an "a" or "f" variant
    runs nowhere else.
    """
    portable = [arch for arch in archs if arch.isdigit() and arch_number(arch) >= 80]
    return portable[0] if portable else archs[-1]


# --- Which Pythons --------------------------------------------------------------------------------

DESCRIBE = """import json, sysconfig
print(json.dumps([sysconfig.get_path("include"), sysconfig.get_config_var("EXT_SUFFIX")]))"""


def named_pythons() -> list[str]:
    """The interpreters of VQGAN_FAST_PYTHONS; none for a build that is for this one alone."""
    named = os.environ.get("VQGAN_FAST_PYTHONS", "")
    return [path for path in named.split(os.pathsep) if path]


def python_targets() -> list[tuple[str, str]]:
    """The folder of Python.h and the suffix of modules, of each Python to build _native for."""
    targets = []
    for path in named_pythons() or [sys.executable]:
        try:
            told = subprocess.run(
                [path, "-c", DESCRIBE], capture_output=True, text=True, check=True
            )
            include, suffix = json.loads(told.stdout)
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            raise BuildError(f"VQGAN_FAST_PYTHONS names {path}, which does not run") from error
        if not Path(include, "Python.h").is_file():
            raise BuildError(f"{path} has no Python.h in {include}: install its headers")
        targets.append((include, suffix))
    return targets


# --- Running CMake --------------------------------------------------------------------------------


def tool(name: str, folder_attribute: str) -> str:
    """A build tool: the one from PyPI in this environment, else the one on PATH."""
    try:
        folder = getattr(__import__(name), folder_attribute)
    except (ImportError, AttributeError):
        folder = None
    found = shutil.which(name, path=folder) if folder else None
    found = found or shutil.which(name)
    if found is None:
        raise BuildError(f"{name} was not found: pip install {name}")
    return found


def pybind11_headers() -> Path:
    """pybind11's headers, copied to a place that does not change from one build to the next.

    pip's isolated environment has another path each time, which would recompile _native.
    """
    import pybind11

    copy = ROOT / "build" / f"pybind11-{pybind11.__version__}"
    if not copy.is_dir():
        shutil.copytree(pybind11.get_include(), copy)
    return copy


def configure_options(version: str) -> list[str]:
    torch_dir = find_torch()
    if torch_dir is None:
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise BuildError(
            f"no torch >= {oldest} was found to build against: install it, or name the folder of "
            "the torch package with VQGAN_FAST_TORCH_DIR"
        )
    targets = python_targets()
    options = {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_MAKE_PROGRAM": tool("ninja", "BIN_DIR"),
        "VQGAN_FAST_VERSION": version,
        "VQGAN_FAST_TORCH_DIR": torch_dir,
        "VQGAN_FAST_PYTHON_INCLUDES": ";".join(include for include, _ in targets),
        "VQGAN_FAST_PYBIND11_INCLUDE": pybind11_headers(),
        "VQGAN_FAST_EXT_SUFFIXES": ";".join(suffix for _, suffix in targets),
        "VQGAN_FAST_CUDA": "OFF",
    }
    sanitizers = os.environ.get("VQGAN_FAST_SANITIZE", "")
    if sanitizers:
        options["VQGAN_FAST_SANITIZE"] = sanitizers
    nvcc = None if sanitizers else cuda_compiler()
    if nvcc is not None:
        archs = cuda_archs(nvcc)
        # Machine code for each; CMake takes an entry without "-real" to mean PTX as well.
        portable = ptx_arch(archs)
        listed = ";".join(arch if arch == portable else f"{arch}-real" for arch in archs)
        options |= {
            "VQGAN_FAST_CUDA": "ON",
            "CMAKE_CUDA_COMPILER": nvcc,
            "CMAKE_CUDA_ARCHITECTURES": listed,
        }
    return [f"-D{name}={value}" for name, value in options.items()]


def forget_other_nvcc(tree: Path, options: list[str]) -> None:
    """CMake would begin anew with another compiler by itself, and without our options."""
    cache = tree / "CMakeCache.txt"
    if not cache.is_file():
        return
    before = re.search(r"^CMAKE_CUDA_COMPILER:\w+=(.*)$", cache.read_text(), re.MULTILINE)
    if before and f"-DCMAKE_CUDA_COMPILER={before[1]}" not in options:
        cache.unlink()
        shutil.rmtree(tree / "CMakeFiles", ignore_errors=True)


class CMakeBuild(build_ext):
    """Builds every target of CMakeLists.txt and puts the results into the package."""

    def run(self) -> None:
        package = ROOT if self.inplace else Path(self.build_lib)
        package = package / "vqgan_fast"
        options = configure_options(self.distribution.get_version().split("+")[0])
        # One folder for each Python and kind of build, kept between builds.
        kind = "cuda" if "-DVQGAN_FAST_CUDA=ON" in options else "cpu"
        if named_pythons():
            kind += "-wheel"
        if os.environ.get("VQGAN_FAST_SANITIZE"):
            kind = "sanitize"
            package = self.copy_of_package()
        tree = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}-{kind}"
        tree.mkdir(parents=True, exist_ok=True)
        cmake = tool("cmake", "CMAKE_BIN_DIR")
        with open(tree / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            forget_other_nvcc(tree, options)
            self.call([cmake, "-S", ROOT, "-B", tree, "-G", "Ninja", *options])
            self.call([cmake, "--build", tree])
            staged = tree / "staged"
            shutil.rmtree(staged, ignore_errors=True)
            self.call([cmake, "--install", tree, "--prefix", staged])
            self.publish(staged, package)

    def copy_of_package(self) -> Path:
        """The package without its libraries, in a folder of its own that PYTHONPATH can name."""
        if not self.inplace:
            raise BuildError("VQGAN_FAST_SANITIZE is for `setup.py build_ext --inplace` alone")
        copy = ROOT / "build" / "sanitize" / "vqgan_fast"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(
            ROOT / "vqgan_fast", copy, ignore=shutil.ignore_patterns("*.so", "__pycache__")
        )
        return copy

    def call(self, command: list[object]) -> None:
        try:
            subprocess.run([str(part) for part in command], check=True)
        except subprocess.CalledProcessError as error:
            raise BuildError(
                "the build stopped, see above; if it was nvcc, VQGAN_FAST_CUDA=0 builds without it"
            ) from error

    def publish(self, staged: Path, package: Path) -> None:
        """Replaces the package's libraries by the staged ones; those of an older build go.

        Each is replaced whole: a process that has the old file mapped keeps it.
        """
        package.mkdir(parents=True, exist_ok=True)
        built = {path.name for path in staged.iterdir()}
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        for old in [*package.glob("libvqgan_fast*.so"), package / f"_native{suffix}"]:
            if old.name not in built:
                old.unlink(missing_ok=True)
        for name in built:
            shutil.copy2(staged / name, package / f"{name}.new")
            os.replace(package / f"{name}.new", package / name)

    def get_outputs(self) -> list[str]:
        return [str(path) for path in Path(self.build_lib, "vqgan_fast").glob("*.so")]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class CleanBuild(build):
    """Starts from an empty build_lib: what an older build left there must not be shipped."""

    def run(self) -> None:
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class OneWheel(bdist_wheel):
    """py3-none where the wheel has a _native for each of several Pythons: it is for them all."""

    def get_tag(self) -> tuple[str, str, str]:
        python, abi, platform = super().get_tag()
        return ("py3", "none", platform) if named_pythons() else (python, abi, platform)


# --- PEP 517 --------------------------------------------------------------------------------------

build_wheel = build_meta.build_wheel
build_sdist = build_meta.build_sdist
build_editable = build_meta.build_editable
get_requires_for_build_sdist = build_meta.get_requires_for_build_sdist
prepare_metadata_for_build_wheel = build_meta.prepare_metadata_for_build_wheel
prepare_metadata_for_build_editable = build_meta.prepare_metadata_for_build_editable


def get_requires_for_build_wheel(config_settings: dict | None = None) -> list[str]:
    """torch, but only where there is none to build against."""
    if find_torch() is not None:
        return []
    return ["torch>=" + ".".join(map(str, OLDEST_TORCH))]


get_requires_for_build_editable = get_requires_for_build_wheel

if __name__ == "__main__":
    label = os.environ.get("VQGAN_FAST_LABEL", "")
    setup(
        ext_modules=[Extension("vqgan_fast._native", sources=[])],
        cmdclass={"build": CleanBuild, "build_ext": CMakeBuild, "bdist_wheel": OneWheel},
        options={"egg_info": {"tag_build": f"+{label}"}} if label else {},
    )
