"""Damaged compiled files: `info` names them and lives, where loading them ends the process."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import vqgan_fast
from vqgan_fast.damage import find_damage

PACKAGE = Path(vqgan_fast.__file__).parent
NATIVE = next(PACKAGE.glob("_native*.so")).name


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the package, in a folder that comes first where Python looks."""
    ignored = shutil.ignore_patterns("__pycache__", "libvqgan_fast_cuda.so")
    shutil.copytree(PACKAGE, tmp_path / "vqgan_fast", ignore=ignored)
    return tmp_path / "vqgan_fast"


def install(package: Path) -> None:
    """Writes down what is there, as pip does with a wheel."""
    folder = package.parent / f"vqgan_fast-{vqgan_fast.__version__}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Name: vqgan_fast\nVersion: {vqgan_fast.__version__}\n")
    lines = []
    for file in package.glob("*.so"):
        content = file.read_bytes()
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        lines.append(f"vqgan_fast/{file.name},sha256={digest},{len(content)}\n")
    (folder / "RECORD").write_text("".join(lines))


def problems(package: Path) -> list[dict[str, str]]:
    """What `info --json` of this copy says of damaged files and libraries."""
    done = subprocess.run(
        [sys.executable, "-m", "vqgan_fast", "info", "--json"], cwd=package.parent,
        env={**os.environ, "PYTHONPATH": str(package.parent)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    parts = ("damaged", "build", "cpu", "libraries")
    return [entry for entry in json.loads(done.stdout)["problems"] if entry["part"] in parts]


@pytest.mark.parametrize("name", [NATIVE, "libvqgan_fast.so"])
def test_a_file_that_ends_its_process_is_named(copied: Path, name: str) -> None:
    os.truncate(copied / name, (copied / name).stat().st_size // 2)
    (problem,) = problems(copied)
    assert problem["part"] == "damaged"
    assert f"the file {name} of vqgan_fast is damaged: loading it ends" in problem["problem"]
    assert "SIG" in problem["problem"] and "install vqgan_fast again" in problem["advice"]


def test_a_file_that_is_not_what_was_installed_is_named(copied: Path) -> None:
    install(copied)
    library = copied / "libvqgan_fast.so"
    size = library.stat().st_size
    os.truncate(library, size * 19 // 20)
    native = bytearray((copied / NATIVE).read_bytes())
    native[len(native) // 2] ^= 255
    (copied / NATIVE).write_bytes(native)
    of_native, of_library = problems(copied)
    assert f"{NATIVE} of vqgan_fast is damaged: its content is not" in of_native["problem"]
    told = f"libvqgan_fast.so of vqgan_fast is damaged: it has {size * 19 // 20} bytes, {size} were"
    assert told in of_library["problem"]


def test_what_was_installed_is_not_tried_first(copied: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(copied.parent))
    install(copied)
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: pytest.fail("another process"))
    assert find_damage(copied) == {}
