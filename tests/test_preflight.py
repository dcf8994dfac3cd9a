"""What is missing on a machine, told from what `vqgan-fast info` found: each way it can be."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest

from vqgan_fast.preflight import code_for, find_problems

# A node that has everything.
NODE: dict[str, Any] = {
    "versions": {
        "python": "3.12.1", "torch": "2.13.0+cu130", "lpips": "0.1", "pillow": "13",
        "omegaconf": "2.4", "pyyaml": "6.0", "safetensors": "0.8", "scikit-image": "0.26",
        "tensorboard": "2.21", "tqdm": "4.67",
    },
    "damaged": {},
    "build": {"cuda_version": "13.0.88", "cuda_archs": ["80", "90a", "120+PTX"]},
    "cpu": {"simd": {"detected": "avx512", "selected": "avx512"}},
    "cuda": {
        "cards": ["NVIDIA H100"], "torch_cuda": "13.0", "driver_cuda": "13.0",
        "devices": [{"name": "NVIDIA H100", "capability": "9.0"}],
    },
    "distributed": {"available": True, "gloo": True, "nccl": "2.30.7"},
    "libraries": [
        {"name": "libvqgan_fast.so", "loaded": True, "reason": ""},
        {"name": "libvqgan_fast_cuda.so", "loaded": True, "reason": ""},
    ],
}  # fmt: skip


def changed(**changes: Any) -> list[dict[str, str]]:
    """The problems of NODE with values put at paths such as cuda__driver_cuda."""
    info = copy.deepcopy(NODE)
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = info
        for key in parents:
            place = place[int(key) if key.isdigit() else key]
        place[last] = value
    return find_problems(info)


def test_nothing_is_missing_on_a_good_node() -> None:
    assert changed() == []


def test_a_machine_without_a_card_misses_no_cuda() -> None:
    assert (
        changed(
            cuda__cards=[],
            cuda__devices=[],
            cuda__driver_cuda=None,
            distributed__nccl=None,
            libraries__1__loaded=False,
        )
        == []
    )


@pytest.mark.parametrize(
    ("changes", "part", "problem", "advice"),
    [
        ({"versions__torch": None}, "versions", "torch is not installed", "pip install torch"),
        ({"versions__torch": "2.9.1"}, "versions", "2.9.1 is too old", "torch>=2.10"),
        ({"versions__lpips": None}, "versions", "miss lpips", r"vqgan_fast\[train\]"),
        ({"versions__tqdm": None}, "versions", "miss tqdm", r"vqgan_fast\[train\]"),
        ({"versions__scikit-image": None}, "versions", "miss scikit-image", r"\[train\]"),
        ({"build": {"problem": "no _native"}, "cuda__cards": []}, "build", "no _native; vqgan_f",
         "a _native for Python 3.12.1"),
        ({"damaged": {"_native.so": "cut"}, "build": {"problem": "bad"}}, "damaged",
         r"the file _native\.so of vqgan_fast is damaged: cut", "install vqgan_fast again: pip"),
        ({"damaged": {"libvqgan_fast.so": "cut"}, "libraries__0__loaded": False}, "damaged",
         r"the file libvqgan_fast\.so of vqgan_fast is damaged: cut", "again"),
        ({"cpu": {"problem": "got sse9"}}, "cpu", "got sse9", "unset VQGAN_FAST_ISA"),
        ({"cpu__simd__selected": "avx2"}, "cpu", "run at avx2, this CPU has avx512", "unset VQGAN"),
        ({"libraries__0__loaded": False, "libraries__0__reason": "gone"}, "libraries",
         r"libvqgan_fast\.so does not load: gone", "reinstall"),
        ({"cuda__driver_cuda": None}, "cuda", r"H100: the driver's library libcuda", "--gpus all"),
        ({"cuda__torch_cuda": None}, "cuda", "torch is for CPUs only", "torch for CUDA 13.0"),
        ({"cuda__driver_cuda": "12.8"}, "cuda", "torch is for CUDA 13.0, the driver knows up to",
         "a torch for CUDA 12"),
        ({"cuda__driver_cuda": "12.8", "cuda__torch_cuda": "12.8"}, "cuda",
         r"built with CUDA 13\.0\.88, the driver knows up to 12\.8", r"580 or newer.*\+cu129"),
        ({"cuda__driver_cuda": "11.4", "cuda__cards": [], "cuda__devices": []}, "cuda",
         r"torch is for CUDA 13\.0, the driver knows up to 11\.4", "a torch for CUDA 11"),
        ({"cuda__driver_cuda": "12.8", "cuda__torch_cuda": "12.8", "cuda__cards": [],
          "cuda__devices": []}, "cuda", r"built with CUDA 13\.0\.88, the driver knows", r"\+cu129"),
        ({"build__cuda_version": ""}, "cuda", "this build of vqgan_fast is for CPUs", "wheel with"),
        ({"cuda__devices": [{"name": "V100", "capability": "7.0"}]}, "cuda",
         r"V100 has compute capability 7\.0, this build has 80, 90a", "ARCHS=70"),
        ({"libraries__1__loaded": False, "libraries__1__reason": "broken"}, "cuda",
         r"libvqgan_fast_cuda\.so: broken", "building"),
        ({"distributed__nccl": None}, "distributed", "no NCCL", "with CUDA"),
        ({"distributed__gloo": False}, "distributed", "no gloo", "pip install torch"),
    ],
)  # fmt: skip
def test_each_problem_is_named_once_with_advice(changes, part, problem, advice) -> None:
    found = changed(**changes)
    assert [entry["part"] for entry in found] == [part]
    assert re.search(problem, found[0]["problem"])
    assert re.search(advice, found[0]["advice"])


@pytest.mark.parametrize(
    ("capability", "code"),
    [
        ("7.5", None),
        ("8.0", "80"),
        ("8.6", "86"),
        ("8.9", "86"),
        ("9.0", "90a"),
        ("10.3", "100"),
        ("11.0", None),
        ("12.1", "120"),
        ("13.0", "120+PTX"),
    ],
)
def test_the_code_that_a_card_runs(capability: str, code: str | None) -> None:
    assert code_for(capability, ["80", "86", "90a", "100", "120+PTX"]) == code


def test_code_of_another_letter_runs_nowhere_else() -> None:
    assert code_for("9.1", ["90a"]) is None
    assert code_for("9.1", ["90a+PTX"]) is None
    assert code_for("8.6", []) is None
