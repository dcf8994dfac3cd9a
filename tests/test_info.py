"""`vqgan_fast.info`: what works is told, and what is broken is told instead of raised."""

from __future__ import annotations

import json

import pytest
import torch

import vqgan_fast
from vqgan_fast import _library, damage, info


@pytest.fixture(scope="module")
def damaged() -> dict[str, str]:
    return damage.find_damage()


@pytest.fixture(autouse=True)
def look_for_damage_once(monkeypatch: pytest.MonkeyPatch, damaged: dict[str, str]) -> None:
    """In a checkout, two processes load the libraries for that: seconds."""
    monkeypatch.setattr(info, "find_damage", lambda: damaged)


def test_collect_is_plain_data_with_every_part():
    collected = info.collect()
    assert list(collected) == [
        "versions",
        "damaged",
        "build",
        "cpu",
        "cuda",
        "distributed",
        "libraries",
        "problems",
    ]
    assert collected["distributed"]["gloo"] == torch.distributed.is_gloo_available()
    assert json.loads(json.dumps(collected)) == collected
    assert collected["versions"]["vqgan_fast"] == vqgan_fast.__version__
    assert collected["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert collected["cpu"]["threads"] == torch.get_num_threads()
    assert set(collected["cpu"]["simd"]) == {"detected", "selected", "nearest_code", "levels"}
    assert [library["name"] for library in collected["libraries"]] == [
        "libvqgan_fast.so",
        "libvqgan_fast_cuda.so",
    ]
    assert collected["libraries"][0]["loaded"]


def test_a_library_that_is_not_loaded_has_a_reason():
    for library in info.collect()["libraries"]:
        assert library["loaded"] != bool(library["reason"])


def test_a_library_that_is_missing_is_told(monkeypatch):
    def load_libraries():
        raise ImportError("libvqgan_fast.so is missing: build it")

    monkeypatch.setattr(_library, "load_libraries", load_libraries)
    collected = info.collect()
    assert collected["libraries"] == [
        {
            "name": "libvqgan_fast.so",
            "loaded": False,
            "reason": "libvqgan_fast.so is missing: build it",
        }
    ]
    assert "not loaded: libvqgan_fast.so is missing: build it" in info.render(collected)


def test_an_instruction_set_that_cannot_be_had_is_told(monkeypatch):
    monkeypatch.setenv("VQGAN_FAST_ISA", "sse9")
    cpu = info.collect()["cpu"]
    assert "simd" not in cpu
    assert "got sse9" in cpu["problem"]
    assert cpu["threads"] >= 1


@pytest.mark.parametrize("name", ["torch", "numpy", "python"])
def test_render_shows_versions(name):
    collected = info.collect()
    lines = info.render(collected).splitlines()
    assert any(line.split() == [name, collected["versions"][name]] for line in lines)


def test_render_says_none_for_what_is_absent():
    collected = info.collect()
    collected["versions"]["lpips"] = None
    collected["build"]["cuda_archs"] = []
    text = info.render(collected)
    assert "lpips                    none" in text
    assert "cuda archs               none" in text


def test_the_kernels_driver_tells_of_cards_that_torch_cannot_use(monkeypatch, tmp_path):
    (tmp_path / "gpus" / "0000:01:00.0").mkdir(parents=True)
    (tmp_path / "gpus" / "0000:01:00.0" / "information").write_text(
        "Model: \t\t NVIDIA H100 PCIe\nIRQ:   \t\t 80\n"
    )
    (tmp_path / "version").write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\n"
        "GCC version:  gcc version 12.2.0\n"
    )
    monkeypatch.setattr(info, "_NVIDIA", tmp_path)
    monkeypatch.setattr(_library, "cuda_driver_version", lambda: (12, 8))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    collected = info.collect()
    assert collected["cuda"]["cards"] == ["NVIDIA H100 PCIe"]
    assert collected["cuda"]["driver"] == "570.86.15"
    (problem,) = [entry for entry in collected["problems"] if entry["part"] == "cuda"]
    assert "torch is for CUDA 13.0, the driver knows up to 12.8" in problem["problem"]
    text = info.render(collected)
    assert problem["problem"] in text
    assert f"-> {problem['advice']}" in text
