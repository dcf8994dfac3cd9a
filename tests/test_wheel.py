"""`make wheel`: which Pythons, which name, and that nothing of the machine gets into the file."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from setuptools import Distribution

import vqgan_fast

ROOT = Path(__file__).resolve().parent.parent


def module(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded  # dataclasses look their module up
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture
def setup(monkeypatch) -> ModuleType:
    for name in ("VQGAN_FAST_PYTHONS", "VQGAN_FAST_LABEL", "VQGAN_FAST_CUDA"):
        monkeypatch.delenv(name, raising=False)
    return module(ROOT / "setup.py", "vqgan_fast_setup")


@pytest.fixture
def packaging(monkeypatch) -> ModuleType:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    return module(ROOT / "packaging" / "build_wheel.py", "build_wheel")


# --- Which Pythons --------------------------------------------------------------------------------


def fake_python(folder: Path, told: str, status: int = 0) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "python"
    path.write_text(f"#!/bin/sh\necho '{told}'\nexit {status}\n")
    path.chmod(0o755)
    return str(path)


def test_a_build_for_this_python_alone(setup):
    here = (sysconfig.get_path("include"), sysconfig.get_config_var("EXT_SUFFIX"))
    assert setup.python_targets() == [here]


def test_a_module_for_each_python_that_is_named(setup, monkeypatch, tmp_path):
    (tmp_path / "Python.h").touch()
    other = fake_python(tmp_path, f'["{tmp_path}", ".cpython-399.so"]')
    monkeypatch.setenv("VQGAN_FAST_PYTHONS", f"{other}{os.pathsep}{sys.executable}")
    assert [suffix for _, suffix in setup.python_targets()] == [
        ".cpython-399.so",
        sysconfig.get_config_var("EXT_SUFFIX"),
    ]


@pytest.mark.parametrize(
    ("told", "status", "message"),
    [
        ("", 1, "python, which does not run"),
        ("not JSON", 0, "python, which does not run"),
        ('["/nowhere", ".so"]', 0, "has no Python.h in /nowhere: install its headers"),
    ],
)
def test_pythons_that_cannot_be_built_for(setup, monkeypatch, tmp_path, told, status, message):
    monkeypatch.setenv("VQGAN_FAST_PYTHONS", fake_python(tmp_path, told, status))
    with pytest.raises(setup.BuildError, match=message):
        setup.python_targets()
    monkeypatch.setenv("VQGAN_FAST_PYTHONS", "/gone/python")
    with pytest.raises(setup.BuildError, match="/gone/python, which does not run"):
        setup.python_targets()


def test_the_tag_says_for_how_many_pythons_a_wheel_is(setup, monkeypatch):
    command = setup.OneWheel(Distribution({"name": "x", "ext_modules": [object()]}))
    command.ensure_finalized()
    assert command.get_tag()[0] == f"cp{sys.version_info[0]}{sys.version_info[1]}"
    monkeypatch.setenv("VQGAN_FAST_PYTHONS", sys.executable)
    python, abi, platform = command.get_tag()
    assert (python, abi) == ("py3", "none")
    assert platform.startswith("linux")


def test_pythons_are_found_and_others_passed_over(packaging, monkeypatch, tmp_path):
    def python(name: str, **changes: object) -> str:
        about = {
            "version": "3.12", "implementation": "cpython", "free_threaded": False,
            "include": str(tmp_path), **changes,
        }  # fmt: skip
        return fake_python(tmp_path / name, packaging.json.dumps(about))

    (tmp_path / "Python.h").touch()
    good, older = python("good"), python("older", version="3.10")
    assert packaging.find_pythons([good, older]) == {"3.10": older, "3.12": good}
    for name, change in (
        ("pypy", {"implementation": "pypy"}),
        ("free", {"free_threaded": True}),
        ("no headers", {"include": "/nowhere"}),
        ("old", {"version": "3.9"}),
    ):
        with pytest.raises(SystemExit, match="with its headers"):
            packaging.find_pythons([python(name, **change)])
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    home = tmp_path / ".pyenv" / "versions" / "3.12.1" / "bin"
    expected = fake_python(home, Path(good).read_text().split("'")[1])
    monkeypatch.setattr(packaging.shutil, "which", lambda path: path if path == expected else None)
    assert packaging.find_pythons([]) == {"3.12": expected}


def test_only_on_linux(packaging, monkeypatch):
    monkeypatch.setattr(packaging.sys, "platform", "darwin")
    monkeypatch.setattr(packaging.sys, "argv", ["build_wheel.py"])
    with pytest.raises(SystemExit, match="on Linux only, this is darwin"):
        packaging.main()


# --- The same bytes -------------------------------------------------------------------------------


def write_wheel(path: Path, names: list[str], day: int, mode: int) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            entry = zipfile.ZipInfo(name, (2026, 1, day, 3, 4, 5))
            entry.external_attr = mode << 16
            lines = "\n".join([*names, ""]) if name.endswith("RECORD") else name
            archive.writestr(entry, lines)
    return path


def test_order_times_and_modes_do_not_show(packaging, tmp_path):
    names = ["a/x.py", "a/lib.so", "a-1.dist-info/METADATA", "a-1.dist-info/RECORD", "a/b.py"]
    first = write_wheel(tmp_path / "one.whl", names, 1, 0o600)
    second = write_wheel(tmp_path / "two.whl", names[::-1], 2, 0o777)
    assert first.read_bytes() != second.read_bytes()
    for wheel in (first, second):
        packaging.normalise(wheel, wheel.with_suffix(".normal"), 1_700_000_000)
    one, two = (tmp_path / f"{name}.normal" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    with zipfile.ZipFile(one) as archive:
        assert archive.namelist()[-1] == "a-1.dist-info/RECORD"
        assert archive.read("a/b.py") == b"a/b.py"
        modes = {entry.filename: entry.external_attr >> 16 for entry in archive.infolist()}
    assert (modes["a/lib.so"], modes["a/b.py"]) == (0o100755, 0o100644)


def test_the_date_of_a_wheel(packaging, monkeypatch, tmp_path):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1234567890")
    assert packaging.source_date() == 1234567890
    for wrong in ("yesterday", "-1", "4354819200"):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", wrong)
        with pytest.raises(SystemExit, match="must be seconds since 1970"):
            packaging.source_date()
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    monkeypatch.setattr(packaging, "ROOT", tmp_path)
    assert packaging.source_date() == packaging.EARLIEST
    wheel = write_wheel(tmp_path / "old.whl", ["a.py"], 1, 0o644)
    packaging.normalise(wheel, tmp_path / "old.normal", 0)  # before zip files know a time
    with zipfile.ZipFile(tmp_path / "old.normal") as archive:
        assert archive.infolist()[0].date_time == (1980, 1, 1, 0, 0, 0)


@pytest.mark.parametrize(
    ("release", "label"), [("13.0", ""), ("13.3", ""), ("12.9", "cu129"), ("12.8", "cu128")]
)
def test_a_label_tells_wheels_of_one_version_apart(
    packaging, monkeypatch, tmp_path, release, label
):
    nvcc = fake_python(tmp_path, f"Cuda compilation tools, release {release}, V{release}.1")
    monkeypatch.setenv("CUDACXX", nvcc)
    monkeypatch.setenv("VQGAN_FAST_CUDA", "1")
    assert packaging.default_label() == label
    monkeypatch.setenv("VQGAN_FAST_CUDA", "0")
    assert packaging.default_label() == "cpu"


# --- Testing it -----------------------------------------------------------------------------------


def test_a_row_replaces_the_one_of_the_same_environment(packaging, monkeypatch, tmp_path):
    tester = module(ROOT / "packaging" / "test_wheel.py", "packaging_test_wheel")
    page = tmp_path / "wheels.md"
    page.write_text(f"before\n{tester.BEGIN}{tester.END}\nafter\n")
    monkeypatch.setattr(tester, "PAGE", page)
    wheel = Path("x-1-py3-none-any.whl")
    for torch, outcome in (("2.10", "1 failed"), ("2.11", "3 passed"), ("2.10", "4 passed")):
        tester.write_row(tester.Result("3.11", torch, outcome, tests_s=7.0), wheel)
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    rows = [line.split(" | ") for line in lines if line.startswith("| x-1")]
    assert [row[2:4] for row in rows] == [["2.11", "3 passed"], ["2.10", "4 passed"]]
    assert all("nan" not in cell for row in rows for cell in row)
    assert lines[2].startswith("| wheel |")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--environment", "3.9:2.13.0"], "1 environments did not pass"),  # asked for, not here
        ([], "none of the Pythons is here"),
    ],
)
def test_what_is_not_tested_has_not_passed(packaging, monkeypatch, tmp_path, argv, message):
    tester = module(ROOT / "packaging" / "test_wheel.py", "packaging_test_wheel")
    monkeypatch.setattr(tester, "find_pythons", lambda named: {})
    monkeypatch.setattr(tester.sys, "argv", ["test_wheel.py", str(tmp_path / "x.whl"), *argv])
    with pytest.raises(SystemExit, match=message):
        tester.main()


def test_a_selection_of_no_test_has_not_passed(packaging, monkeypatch, tmp_path):
    tester = module(ROOT / "packaging" / "test_wheel.py", "packaging_test_wheel")
    monkeypatch.setattr(tester, "TESTS", ())
    report = '<testsuites><testsuite tests="2" failures="0" errors="0" skipped="2"/></testsuites>'
    pytest_ = fake_python(tmp_path, f"{report}' > told.xml; echo '")
    told = tester.run_tests(tmp_path, pytest_, dict(os.environ), "nearest")
    assert told == "**nothing was tested** (nearest)"


# --- What importing it costs, and what it says where a part is missing ----------------------------

MEASURE = """
import time, torch
started = time.thread_time()
import vqgan_fast
print(time.thread_time() - started)
"""


def test_import_adds_less_than_10_ms_to_torchs() -> None:
    command = [sys.executable, "-c", MEASURE]
    told = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(2)]
    assert min(float(one.stdout) for one in told) < 0.010


def test_a_python_without_its_native_module_is_told_what_to_do(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "vqgan_fast._native", None)
    monkeypatch.delattr(vqgan_fast, "_native", raising=False)
    monkeypatch.delitem(sys.modules, "vqgan_fast.numpy", raising=False)
    with pytest.raises(ImportError, match=r"has none that loads in Python 3\.\d+ .*pip install \."):
        importlib.import_module("vqgan_fast.numpy")
