"""What `vqgan-fast info` tells: versions, hardware, compiled parts and why one is not in use."""

from __future__ import annotations

import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

from . import __version__
from .damage import CPU_LIBRARY, CUDA_LIBRARY, find_damage
from .preflight import code_for, find_problems

_NVIDIA = Path("/proc/driver/nvidia")  # where the kernel's part of the driver tells of itself
# A torch that is broken raises whatever its imports do: a library that is missing is an OSError.
_BROKEN = (ImportError, OSError, RuntimeError, AttributeError, ValueError)
_OPTIONAL = (
    "torchvision", "lpips", "omegaconf", "pillow", "pyyaml", "safetensors", "scikit-image",
    "tensorboard", "tqdm", "torch-fidelity", "matplotlib", "rich",
)  # fmt: skip


def collect() -> dict[str, Any]:
    """Everything about this installation as plain values that `json.dumps` takes.

    Reports what is broken instead of raising: a missing library, a torch that does not import, a
    VQGAN_FAST_ISA that cannot be had each become a text under the part they concern. `problems`
    lists them once more, with what a machine lacks and what to do about it.
    """
    damaged = find_damage()  # before any of them is loaded
    native = next((name for name in damaged if name.startswith("_native")), None)
    info: dict[str, Any] = {
        "versions": _versions(),
        "damaged": damaged,
        "build": _build() if native is None else {"problem": f"{native} is damaged"},
        "cpu": _cpu(native),
        "cuda": _cuda(),
        "distributed": _distributed(),
        "libraries": _libraries(damaged),
    }
    for device in info["cuda"].get("devices", []):
        device["code"] = code_for(device["capability"], info["build"].get("cuda_archs", []))
    return {**info, "problems": find_problems(info)}


def _versions() -> dict[str, str | None]:
    names = ("torch", "numpy", *_OPTIONAL)
    versions: dict[str, str | None] = {
        "vqgan_fast": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def _build() -> dict[str, Any]:
    try:
        from . import _native
    except ImportError as error:
        return {"problem": f"the module _native does not load: {error}"}
    return _native.build_info()


def _cpu(damaged: str | None) -> dict[str, Any]:
    cpu: dict[str, Any] = {"model": _cpu_model()}
    try:
        if damaged is not None:
            raise ImportError(f"{damaged} is damaged")
        from . import _native

        cpu |= {"simd": _native.cpu_features()}
    except (ImportError, RuntimeError) as error:
        cpu["problem"] = str(error)
    try:
        import torch

        cpu["threads"] = torch.get_num_threads()
    except _BROKEN:
        pass  # `_cuda` tells why
    return cpu


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _cuda() -> dict[str, Any]:
    cuda: dict[str, Any] = {"cards": _cards(), "driver": _driver()}
    try:
        import torch

        from . import _library
    except _BROKEN as error:
        return {**cuda, "problem": f"torch does not import: {error}"}
    driver = _library.cuda_driver_version()
    devices = [
        torch.cuda.get_device_properties(index)
        for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    ]
    return {
        **cuda,
        "cards": cuda["cards"] or [device.name for device in devices],
        "torch_cuda": torch.version.cuda,
        "driver_cuda": f"{driver[0]}.{driver[1]}" if driver else None,
        "devices": [
            {
                "name": device.name,
                "capability": f"{device.major}.{device.minor}",
                "memory_gib": round(device.total_memory / 2**30, 1),
            }
            for device in devices
        ],
    }


def _cards() -> list[str]:
    """The NVIDIA cards that the kernel's driver has, whether or not torch can use them."""
    found = sorted(_NVIDIA.glob("gpus/*/information"))
    models = (re.search(r"Model:\s*(.+)", file.read_text()) for file in found)
    return [model[1].strip() for model in models if model]


def _driver() -> str | None:
    """Its version, such as "580.65.06"."""
    file = _NVIDIA / "version"
    found = re.search(r"\b(\d{3,}\.\d+(\.\d+)?)\b", file.read_text()) if file.is_file() else None
    return found[1] if found else None


def _distributed() -> dict[str, Any]:
    """Which backends of torch.distributed can be had."""
    try:
        from torch import distributed
    except _BROKEN as error:
        return {"problem": f"torch does not import: {error}"}
    if not distributed.is_available():
        return {"available": False}
    nccl = None
    if distributed.is_nccl_available():
        from torch.cuda import nccl as library

        nccl = ".".join(map(str, library.version()))
    return {"available": True, "gloo": distributed.is_gloo_available(), "nccl": nccl}


def _libraries(damaged: dict[str, str]) -> list[dict[str, Any]]:
    bad = [
        {"name": name, "loaded": False, "reason": f"it is damaged: {damaged[name]}"}
        for name in (CPU_LIBRARY, CUDA_LIBRARY)
        if name in damaged
    ]
    if bad:  # the two are loaded together
        return bad
    try:
        from . import _library

        statuses = _library.load_libraries()
    except _BROKEN as error:
        return [{"name": CPU_LIBRARY, "loaded": False, "reason": str(error)}]
    return [
        {"name": status.name, "loaded": status.loaded, "reason": status.reason}
        for status in statuses
    ]


def render(info: dict[str, Any]) -> str:
    """The dictionary of `collect` as text for a terminal."""
    lines = []
    for title, content in (
        ("Versions", info["versions"]),
        *([("Damaged files", info["damaged"])] if info["damaged"] else []),
        ("Build", info["build"]),
        ("CPU", info["cpu"]),
        ("CUDA", info["cuda"]),
        ("Distributed", info["distributed"]),
    ):
        lines += [title, *_rows(content), ""]
    lines.append("Op libraries")
    for library in info["libraries"]:
        state = "loaded" if library["loaded"] else f"not loaded: {library['reason']}"
        lines.append(f"  {library['name']:<24} {state}")
    lines += ["", "What is missing" if info["problems"] else "Nothing is missing."]
    for entry in info["problems"]:
        lines += [f"  {entry['problem']}", f"    -> {entry['advice']}"]
    return "\n".join(lines)


def _rows(content: dict[str, Any]) -> list[str]:
    return [f"  {name.replace('_', ' '):<24} {_text(value)}" for name, value in content.items()]


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(entry)}" for name, entry in value.items())
    if isinstance(value, list):
        return "; ".join(map(_text, value)) or "none"
    return str(value) or "none"
