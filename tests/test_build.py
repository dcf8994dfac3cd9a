"""The decisions of the build, and its source distribution."""

from __future__ import annotations

import importlib.util
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path
from types import ModuleType

import pytest
import torch
from setuptools import Distribution

import vqgan_fast

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(vqgan_fast.__file__).resolve().parent
VARIABLES = (
    "VQGAN_FAST_CUDA",
    "VQGAN_FAST_CUDA_ARCHS",
    "VQGAN_FAST_TORCH_DIR",
    "VQGAN_FAST_SANITIZE",
    "CUDACXX",
    "CUDA_HOME",
    "CUDA_PATH",
)


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """setup.py as a module, with none of its variables set and nothing on PATH."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "")
    spec = importlib.util.spec_from_file_location("vqgan_fast_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def program(folder: Path, name: str, output: str) -> Path:
    """A program that prints `output`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{output}'\n")
    path.chmod(0o755)
    return path


# --- CUDA or not ----------------------------------------------------------------------------------


def test_cuda_1_without_nvcc_is_a_clear_error(build, monkeypatch):
    monkeypatch.setenv("VQGAN_FAST_CUDA", "1")
    with pytest.raises(build.BuildError, match=r"no nvcc was found.*CUDA_HOME.*CUDACXX"):
        build.cuda_compiler()


def test_auto_without_nvcc_builds_for_the_cpu(build):
    assert build.cuda_compiler() is None


def test_auto_takes_an_nvcc_on_path_and_0_ignores_it(build, monkeypatch, tmp_path):
    nvcc = program(tmp_path, "nvcc", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build.cuda_compiler() == nvcc
    monkeypatch.setenv("VQGAN_FAST_CUDA", "0")
    assert build.cuda_compiler() is None


def test_cuda_home_and_cudacxx_name_the_compiler(build, monkeypatch, tmp_path):
    nvcc = program(tmp_path / "home" / "bin", "nvcc", "")
    other = program(tmp_path, "nvcc-12", "")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    assert build.cuda_compiler() == nvcc
    monkeypatch.setenv("CUDACXX", str(other))
    assert build.cuda_compiler() == other


def test_another_value_of_cuda_is_refused(build, monkeypatch):
    monkeypatch.setenv("VQGAN_FAST_CUDA", "yes")
    with pytest.raises(build.BuildError, match="must be auto, 0 or 1, got 'yes'"):
        build.cuda_compiler()


# --- Architectures --------------------------------------------------------------------------------


def test_without_a_gpu_every_release_architecture_that_nvcc_knows(build, tmp_path):
    nvcc = program(tmp_path, "nvcc", "compute_75\ncompute_80\ncompute_86\ncompute_89\ncompute_90")
    assert build.cuda_archs(nvcc) == ["75", "80", "86", "89", "90a"]


def test_with_gpus_only_theirs_unless_the_release_is_asked_for(build, monkeypatch, tmp_path):
    nvcc = program(tmp_path, "nvcc", "compute_80\ncompute_90\ncompute_120")
    program(tmp_path, "nvidia-smi", "9.0\n8.6\n8.6")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build.cuda_archs(nvcc) == ["86", "90a"]
    monkeypatch.setenv("VQGAN_FAST_CUDA_ARCHS", "release")
    assert build.cuda_archs(nvcc) == ["80", "90a", "120"]


@pytest.mark.parametrize("asked", ["120;80", "80, 120", "80 120"])
def test_architectures_asked_for(build, monkeypatch, tmp_path, asked):
    monkeypatch.setenv("VQGAN_FAST_CUDA_ARCHS", asked)
    assert build.cuda_archs(tmp_path / "nvcc") == ["80", "120"]


def test_a_wrong_architecture_is_refused(build, monkeypatch, tmp_path):
    monkeypatch.setenv("VQGAN_FAST_CUDA_ARCHS", "sm_90")
    with pytest.raises(build.BuildError, match=r'list such as "80;90a", got .sm_90.'):
        build.cuda_archs(tmp_path / "nvcc")


def test_an_nvcc_without_any_known_architecture_is_refused(build, tmp_path):
    nvcc = program(tmp_path, "nvcc", "compute_35")
    with pytest.raises(build.BuildError, match=r"names none of 75, .*VQGAN_FAST_CUDA=0"):
        build.cuda_archs(nvcc)


# --- Which torch to build against -----------------------------------------------------------------


def torch_package(site_packages: Path, version: str) -> Path:
    folder = site_packages / "torch"
    folder.mkdir(parents=True)
    (folder / "version.py").write_text(f"__all__ = []\n__version__ = '{version}'\n")
    return folder


@pytest.fixture
def no_torch(build, monkeypatch, tmp_path) -> Path:
    """An isolated build: the target's site-packages, still empty, is known to sysconfig alone."""
    target = tmp_path / "site-packages"
    monkeypatch.setattr(build.sys, "path", [str(tmp_path / "isolated")])
    monkeypatch.setattr(build.sysconfig, "get_path", lambda name: str(target))
    monkeypatch.setattr(build.site, "ENABLE_USER_SITE", False)
    return target


def test_torch_is_a_build_requirement_where_there_is_none(build, no_torch):
    assert build.find_torch() is None
    assert build.get_requires_for_build_wheel() == ["torch>=2.10"]
    assert build.get_requires_for_build_editable() == ["torch>=2.10"]


def test_torch_of_the_target_environment_is_used_and_not_asked_for(build, no_torch):
    folder = torch_package(no_torch, "2.13.0+cpu")
    assert build.find_torch() == folder
    assert build.get_requires_for_build_wheel() == []


def test_a_torch_that_is_too_old_does_not_count(build, no_torch):
    torch_package(no_torch, "2.9.1")
    assert build.get_requires_for_build_wheel() == ["torch>=2.10"]


def test_the_torch_named_by_the_variable_comes_first(build, no_torch, monkeypatch, tmp_path):
    torch_package(no_torch, "2.13.0")
    named = torch_package(tmp_path / "elsewhere", "2.12.0")
    monkeypatch.setenv("VQGAN_FAST_TORCH_DIR", str(named))
    assert build.find_torch() == named


def test_a_variable_that_names_no_torch_is_refused(build, monkeypatch, tmp_path):
    monkeypatch.setenv("VQGAN_FAST_TORCH_DIR", str(tmp_path))
    with pytest.raises(build.BuildError, match="is not the folder of a torch package"):
        build.find_torch()


def test_a_named_torch_that_is_too_old_is_refused(build, monkeypatch, tmp_path):
    named = torch_package(tmp_path, "2.9.1")
    monkeypatch.setenv("VQGAN_FAST_TORCH_DIR", str(named))
    with pytest.raises(build.BuildError, match=r"must hold torch >= 2\.10, got 2\.9"):
        build.find_torch()


def test_this_environments_torch_is_found(build):
    assert build.find_torch() == Path(torch.__file__).parent


def test_configuring_without_torch_says_what_to_do(build, no_torch):
    with pytest.raises(build.BuildError, match=r"no torch >= 2.10 .*VQGAN_FAST_TORCH_DIR"):
        build.configure_options("0")


def test_a_missing_build_tool_is_named(build, monkeypatch):
    monkeypatch.setitem(sys.modules, "ninja", None)
    with pytest.raises(build.BuildError, match="ninja was not found: pip install ninja"):
        build.tool("ninja", "BIN_DIR")


def test_a_setuptools_that_is_too_old_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "setuptools.command.bdist_wheel", None)
    with pytest.raises(SystemExit, match=r"is too old: pip install 'setuptools>=77'"):
        runpy.run_path(str(ROOT / "setup.py"), run_name="vqgan_fast_setup")


def test_sanitizers_are_for_a_copy_of_the_package(build, monkeypatch, tmp_path):
    monkeypatch.setattr(build, "ROOT", tmp_path)
    (tmp_path / "vqgan_fast" / "ops").mkdir(parents=True)
    (tmp_path / "vqgan_fast" / "ops" / "__init__.py").touch()
    (tmp_path / "vqgan_fast" / "libvqgan_fast.so").write_text("in use")
    command = build.CMakeBuild(Distribution())
    with pytest.raises(build.BuildError, match=r"VQGAN_FAST_SANITIZE is for .*--inplace"):
        command.copy_of_package()
    command.inplace = True
    copy = command.copy_of_package()
    assert copy == tmp_path / "build" / "sanitize" / "vqgan_fast"
    assert [path.name for path in copy.rglob("*.*")] == ["__init__.py"]
    assert (tmp_path / "vqgan_fast" / "libvqgan_fast.so").read_text() == "in use"


def test_another_nvcc_begins_the_build_anew(build, tmp_path):
    cache = tmp_path / "CMakeCache.txt"
    build.forget_other_nvcc(tmp_path, [])  # nothing was built
    cache.write_text("A:BOOL=ON\nCMAKE_CUDA_COMPILER:UNINITIALIZED=/cuda-13.0/bin/nvcc\n")
    build.forget_other_nvcc(tmp_path, ["-DCMAKE_CUDA_COMPILER=/cuda-13.0/bin/nvcc"])
    assert cache.is_file()
    build.forget_other_nvcc(tmp_path, ["-DCMAKE_CUDA_COMPILER=/cuda-13.0/bin/nvcc-other"])
    assert not cache.is_file()


def test_libraries_of_an_older_build_are_removed(build, tmp_path):
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    staged, package = tmp_path / "staged", tmp_path / "package"
    for folder in (staged, package):
        folder.mkdir()
    for name in ("libvqgan_fast.so", f"_native{suffix}"):
        (staged / name).write_text("new")
    for name in ("libvqgan_fast.so", "libvqgan_fast_cuda.so", "_native.other-python.so"):
        (package / name).write_text("old")
    build.CMakeBuild.publish(None, staged, package)
    assert {path.name: path.read_text() for path in package.iterdir()} == {
        "libvqgan_fast.so": "new",
        f"_native{suffix}": "new",
        "_native.other-python.so": "old",
    }


# --- The source distribution ----------------------------------------------------------------------


def files_of(root: Path, empty: Path) -> list[str]:
    """What git holds of it; of a copy without a history, what git would not ignore."""
    told = subprocess.run(["git", "-C", root, "ls-files"], capture_output=True, text=True)
    if told.returncode != 0:
        subprocess.run(["git", "init", "-q", "--bare", empty], check=True)
        command = ["git", f"--git-dir={empty}", f"--work-tree={root}", "-C", root, "ls-files",
                   "--others", "--exclude-standard"]  # fmt: skip
        told = subprocess.run(command, check=True, capture_output=True, text=True)
    return [name for name in told.stdout.splitlines() if (root / name).is_file()]


def test_the_files_of_a_copy_without_a_history(tmp_path):
    root = tmp_path / "copy"
    (root / "build").mkdir(parents=True)
    for name in (".gitignore", "setup.py", "build/made.o", "made.so"):
        (root / name).write_text("build/\n*.so\n")
    assert files_of(root, tmp_path / "empty.git") == [".gitignore", "setup.py"]


def test_a_source_distribution_has_all_that_a_clone_has(tmp_path):
    clone = tmp_path / "clone"
    names = files_of(ROOT, tmp_path / "empty.git")
    for name in names:
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, clone / name)
    command = [sys.executable, "setup.py", "-q", "sdist"]
    subprocess.run(command, cwd=clone, check=True, capture_output=True)
    (archive,) = (clone / "dist").iterdir()
    with tarfile.open(archive) as packed:
        held = {name.partition("/")[2] for name in packed.getnames()}
    # What belongs to the repository and not to the code.
    ours = {name for name in names if not name.startswith((".ci/", ".github/"))}
    assert ours - held == set()
