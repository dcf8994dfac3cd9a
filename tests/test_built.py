"""What was built: libraries, schemas, why a library is not there, lazy imports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import vqgan_fast
from vqgan_fast import _library, _native

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(vqgan_fast.__file__).resolve().parent

SCHEMAS = {
    "nearest_code": "(Tensor z, Tensor codebook, bool exact) -> (Tensor indices, Tensor distances)",
    "vector_quantize": "(Tensor z, Tensor codebook, bool exact) -> (Tensor z_q, Tensor indices, "
    "Tensor commitment_loss, Tensor codebook_loss)",
    "vector_quantize_backward": "(Tensor? grad_z_q, Tensor grad_commitment, "
    "Tensor grad_codebook_loss, Tensor z, Tensor codebook, Tensor indices, bool need_grad_z, "
    "bool need_grad_codebook) -> (Tensor grad_z, Tensor grad_codebook)",
    "codebook_stats": "(Tensor z, Tensor indices, int num_codes) -> (Tensor counts, Tensor sums)",
}


def test_the_cpu_library_loads():
    status = _library.load_libraries()[0]
    assert (status.name, status.loaded, status.reason) == ("libvqgan_fast.so", True, "")


@pytest.mark.parametrize("name", SCHEMAS)
def test_schema(name):
    _library.load_libraries()
    schema = getattr(torch.ops.vqgan_fast, name).default._schema
    assert str(schema) == f"vqgan_fast::{name}{SCHEMAS[name]}"


def test_what_the_binaries_say_of_themselves_agrees():
    build_info = _native.build_info()
    assert build_info["version"] == vqgan_fast.__version__
    assert build_info["torch_target_version"] == "2.10"
    assert "baseline" in build_info["simd_compiled"]
    assert build_info["cuda_version"] == _library.cuda_toolkit_version()
    assert bool(build_info["cuda_archs"]) == (PACKAGE / _library.CUDA_LIBRARY).is_file()


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.so")), ids=lambda path: path.name)
def test_no_path_of_the_build_machine_is_in_a_binary(path):
    content = path.read_bytes()
    assert os.fsencode(ROOT) not in content
    assert os.fsencode(Path(torch.__file__).parent) not in content


def test_a_missing_library_is_an_import_error_with_advice(monkeypatch, tmp_path):
    monkeypatch.setattr(_library, "_loaded", {})
    with pytest.raises(ImportError, match=r"never built.*pip install \..*build_ext --inplace"):
        _library.load_libraries(tmp_path)


def test_a_library_that_does_not_load_is_an_import_error(monkeypatch, tmp_path):
    (tmp_path / _library.CPU_LIBRARY).write_text("not a library")
    monkeypatch.setattr(_library, "_loaded", {})
    with pytest.raises(ImportError, match=r"does not load beside torch .* \(2.10 or newer"):
        _library.load_libraries(tmp_path)


# --- Why the CUDA library is not in use -----------------------------------------------------------


@pytest.fixture
def with_cuda(monkeypatch, tmp_path) -> Path:
    """A folder, torch and driver with which the CUDA library, built by CUDA 13.0, can be used."""
    (tmp_path / _library.CUDA_LIBRARY).touch()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(_library, "cuda_driver_version", lambda: (13, 0))
    monkeypatch.setattr(_library, "cuda_toolkit_version", lambda folder: "13.0.88")
    return tmp_path


def test_nothing_against_cuda(with_cuda):
    assert _library._why_not_cuda(with_cuda) == ""


def test_cuda_not_built(with_cuda):
    (with_cuda / _library.CUDA_LIBRARY).unlink()
    assert "was not built" in _library._why_not_cuda(with_cuda)


def test_torch_without_cuda(with_cuda, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "has no CUDA" in _library._why_not_cuda(with_cuda)


def test_no_driver(with_cuda, monkeypatch):
    monkeypatch.setattr(_library, "cuda_driver_version", lambda: None)
    assert "no NVIDIA driver" in _library._why_not_cuda(with_cuda)


def test_a_driver_too_old_for_the_toolkit(with_cuda, monkeypatch):
    monkeypatch.setattr(_library, "cuda_driver_version", lambda: (12, 8))
    reason = _library._why_not_cuda(with_cuda)
    assert "built with CUDA 13.0.88" in reason
    assert "up to 12.8" in reason


def test_a_cuda_library_that_does_not_load_leaves_its_reason(with_cuda):
    status = _library._load_cuda(with_cuda)
    assert not status.loaded
    assert "does not load" in status.reason


# --- Imports --------------------------------------------------------------------------------------


def test_import_vqgan_fast_loads_no_torch():
    code = "import sys, vqgan_fast; print('torch' in sys.modules, vqgan_fast.__version__)"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout.split() == ["False", vqgan_fast.__version__]


@pytest.mark.parametrize("name", vqgan_fast.__all__)
def test_public_name_resolves(name):
    assert name in dir(vqgan_fast)
    assert getattr(vqgan_fast, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'vqgan'"):
        _ = vqgan_fast.vqgan


# --- The instruction set --------------------------------------------------------------------------


def test_isa_in_force_can_be_forced(monkeypatch):
    monkeypatch.delenv("VQGAN_FAST_ISA", raising=False)
    assert _native.cpu_features()["selected"] == _native.cpu_features()["detected"]
    monkeypatch.setenv("VQGAN_FAST_ISA", "baseline")
    assert _native.cpu_features()["selected"] == "baseline"
    assert _native.cpu_features()["nearest_code"] == "baseline"


def test_an_unknown_isa_is_a_clear_error(monkeypatch):
    monkeypatch.setenv("VQGAN_FAST_ISA", "sse9")
    with pytest.raises(RuntimeError, match=r"VQGAN_FAST_ISA must be .*, got sse9"):
        _native.cpu_features()
