"""`vqgan_fast.info`: what works is told, and what is broken is told instead of raised."""

from __future__ import annotations

import json

import pytest
import torch

import vqgan_fast
from vqgan_fast import _library, info


def test_collect_is_plain_data_with_every_part():
    collected = info.collect()
    assert set(collected) == {"versions", "build", "cpu", "cuda", "libraries"}
    assert json.loads(json.dumps(collected)) == collected
    assert collected["versions"]["vqgan_fast"] == vqgan_fast.__version__
    assert collected["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert collected["cpu"]["threads"] == torch.get_num_threads()
    assert set(collected["cpu"]["simd"]) == {"detected", "selected", "nearest_code"}
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
