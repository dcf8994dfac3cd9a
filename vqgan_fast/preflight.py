"""What a machine lacks for vqgan_fast, and what to do about it, from what `info.collect` found."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Problem = tuple[str, str]  # what it is, what to do

_EXTRA = "pip install 'vqgan_fast[train]'"
_AGAIN = "pip install --force-reinstall --no-deps vqgan_fast, or build it anew in a checkout"
_TRAINING = (
    "lpips", "omegaconf", "pillow", "pyyaml", "safetensors", "scikit-image", "tensorboard", "tqdm",
)  # fmt: skip


def find_problems(info: dict[str, Any]) -> list[dict[str, str]]:
    """Everything that makes something fail or slow on this machine.

    Args:
        info: the dictionary of `info.collect`, without this part.

    Returns:
        For each: `part`, the key of `info` that it is about; `problem`; `advice`. None for what is
        only absent and not missed, such as CUDA on a machine without a card.
    """
    found: list[dict[str, str]] = []

    def report(part: str, problem: str, advice: str) -> None:
        found.append({"part": part, "problem": problem, "advice": advice})

    versions, cuda = info["versions"], info["cuda"]
    if versions["torch"] is None:
        report("versions", "torch is not installed", "pip install torch (2.10 or newer)")
    elif _number(versions["torch"]) < (2, 10):
        problem = f"torch {versions['torch']} is too old, the ops need 2.10"
        report("versions", problem, "pip install 'torch>=2.10'")
    if versions["torch"] is not None and "problem" in cuda:
        report("versions", cuda["problem"], "pip install --force-reinstall torch")
    missing = [name for name in _TRAINING if versions.get(name) is None]
    if missing:
        report("versions", f"training and the programs miss {', '.join(missing)}", _EXTRA)
    damaged = info["damaged"]
    for name, wrong in damaged.items():
        problem = f"the file {name} of vqgan_fast is damaged: {wrong}"
        report("damaged", problem, "install vqgan_fast again: " + _AGAIN)
    if "problem" in info["build"] and not any(name.startswith("_native") for name in damaged):
        report(
            "build",
            f"{info['build']['problem']}; vqgan_fast.numpy does not work, the ops do",
            f"install a wheel that has a _native for Python {versions['python']}, or from the "
            "sources (pip install .)",
        )
    simd = info["cpu"].get("simd")
    if "problem" in info["cpu"] and "problem" not in info["build"]:
        report("cpu", info["cpu"]["problem"], "unset VQGAN_FAST_ISA")
    elif simd and simd["selected"] != simd["detected"]:
        problem = f"the CPU kernels run at {simd['selected']}, this CPU has {simd['detected']}"
        report("cpu", problem, "unset VQGAN_FAST_ISA")
    libraries = [entry for entry in info["libraries"] if entry["name"] not in damaged]
    ours = [entry for entry in libraries if entry["name"] == "libvqgan_fast.so"]
    others = [entry for entry in libraries if entry not in ours]
    if ours and not ours[0]["loaded"] and "problem" not in cuda:
        problem = f"{ours[0]['name']} does not load: {ours[0]['reason']}"
        report("libraries", problem, _AGAIN)
    if versions["torch"] is not None:
        for problem, advice in _cuda_problems(info, others):
            report("cuda", problem, advice)
    distributed = info["distributed"]
    if cuda.get("devices") and distributed.get("available") and not distributed["nccl"]:
        problem = "this torch has no NCCL, which training on several cards uses"
        report("distributed", problem, "install a torch for Linux with CUDA")
    if distributed.get("available") and not distributed["gloo"]:
        problem = "this torch has no gloo, which training in several processes on CPUs uses"
        report("distributed", problem, "install torch's own wheel: pip install torch")
    return found


def _cuda_problems(info: dict[str, Any], others: list[dict[str, Any]]) -> Iterator[Problem]:
    """What keeps the cards that are there from being used: the first cause alone.

    In a container and under WSL2 the kernel may not tell of cards. A driver is there then, and one
    that is too old is told; the rest would be told on a machine that has no card, too.
    """
    cuda, build = info["cuda"], info["build"]
    if not cuda["cards"]:
        yield from _old_driver(info, "the NVIDIA driver is too old")
        return
    cards = ", ".join(cuda["cards"])
    built_with = build.get("cuda_version")
    driver, torch_cuda = cuda.get("driver_cuda"), cuda.get("torch_cuda")
    told = "problem" not in build  # otherwise the module that tells of the build is broken
    unfit = [
        device
        for device in cuda.get("devices", [])
        if told and code_for(device["capability"], build.get("cuda_archs", [])) is None
    ]
    if driver is None:
        yield (
            f"{cards}: the driver's library libcuda.so.1 is not found",
            "install NVIDIA's driver; start a container with the cards (docker run --gpus all, "
            "apptainer exec --nv)",
        )
    elif torch_cuda is None:
        yield f"{cards}: this torch is for CPUs only", f"install a torch for CUDA {driver}"
    elif old := list(_old_driver(info, cards)):
        yield from old
    elif not built_with and told:
        yield (
            f"{cards}: this build of vqgan_fast is for CPUs only; CUDA tensors take the slow "
            "plain-torch definition",
            "install the wheel with CUDA, or build with an nvcc (docs/building.md)",
        )
    elif unfit:
        for device in unfit:
            yield (
                f"{device['name']} has compute capability {device['capability']}, this build has "
                f"{', '.join(build['cuda_archs'])}",
                f"build with VQGAN_FAST_CUDA_ARCHS={device['capability'].replace('.', '')}",
            )
    else:
        for library in others:
            if not library["loaded"]:
                yield f"{cards}: {library['name']}: {library['reason']}", "see docs/building.md"


def _old_driver(info: dict[str, Any], what: str) -> Iterator[Problem]:
    """That torch, or else this build, is for a newer CUDA than the driver runs."""
    cuda, built_with = info["cuda"], info["build"].get("cuda_version")
    driver, torch_cuda = cuda.get("driver_cuda"), cuda.get("torch_cuda")
    if driver is None or torch_cuda is None:
        return
    if _number(driver)[0] < _number(torch_cuda)[0]:
        yield (
            f"{what}: torch is for CUDA {torch_cuda}, the driver knows up to {driver}",
            f"update the driver, or install a torch for CUDA {_number(driver)[0]}",
        )
    elif built_with and _number(driver)[0] < _number(built_with)[0]:
        yield (
            f"{what}: vqgan_fast was built with CUDA {built_with}, the driver knows up to {driver}",
            "update the driver to 580 or newer, or install the +cu129 wheel (docs/wheels.md)",
        )


def code_for(capability: str, archs: list[str]) -> str | None:
    """Which of a build's architectures a card runs: "90a", "120+PTX" compiled anew, or None.

    Machine code runs on cards of its major version and the same or a higher minor one; that of an
    architecture with a letter on exactly its own cards. PTX runs on every later card.

    Args:
        capability: a card's, such as "8.6".
        archs: such as ["80", "90a", "120+PTX"].
    """
    major, minor = _number(capability)
    best = None
    for arch in archs:
        digits, letter, ptx = re.fullmatch(r"(\d+)([af]?)(\+PTX)?", arch).groups()
        arch_major, arch_minor = int(digits[:-1]), int(digits[-1])
        exact = (arch_major, arch_minor) == (major, minor)
        if exact or (not letter and arch_major == major and arch_minor <= minor):
            best = arch.removesuffix("+PTX")  # the last one is the nearest
        elif best is None and ptx and not letter and (arch_major, arch_minor) <= (major, minor):
            best = arch
    return best


def _number(version: str) -> tuple[int, int]:
    """(major, minor) of "2.13.0+cpu", "13.0.88" or "8.6"."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)
