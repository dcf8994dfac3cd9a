"""Finds and loads the op libraries, and remembers what became of each.

`libvqgan_fast.so` holds the schemas and the CPU implementations and must load.
`libvqgan_fast_cuda.so` holds the CUDA implementations; where it cannot be used, the ops run their
plain-torch definition on CUDA tensors, and `vqgan-fast info` shows the reason kept here.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

import torch

CPU_LIBRARY = "libvqgan_fast.so"
CUDA_LIBRARY = "libvqgan_fast_cuda.so"
_FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class LibraryStatus:
    """One op library: whether it was loaded and, where not, why."""

    name: str
    loaded: bool
    reason: str = ""


_loaded: dict[str, LibraryStatus] = {}


def load_libraries(folder: Path = _FOLDER) -> list[LibraryStatus]:
    """Loads the op libraries, once for the process.

    Raises:
        ImportError: `libvqgan_fast.so` is missing or does not load.
    """
    if not _loaded:
        path = folder / CPU_LIBRARY
        if not path.is_file():
            raise ImportError(
                f"{path} is missing: the compiled ops of vqgan_fast were never built. Install the "
                "package (pip install .) or, in a source checkout, run "
                "`python setup.py build_ext --inplace`."
            )
        try:
            torch.ops.load_library(str(path))
        except OSError as error:
            raise ImportError(
                f"{path} does not load beside torch {torch.__version__} (2.10 or newer is needed): "
                f"{error}"
            ) from error
        _loaded[CPU_LIBRARY] = LibraryStatus(CPU_LIBRARY, loaded=True)
        _loaded[CUDA_LIBRARY] = _load_cuda(folder)
    return list(_loaded.values())


def _load_cuda(folder: Path) -> LibraryStatus:
    reason = _why_not_cuda(folder)
    if not reason:
        try:
            torch.ops.load_library(str(folder / CUDA_LIBRARY))
        except OSError as error:
            reason = f"it does not load: {error}"
    return LibraryStatus(CUDA_LIBRARY, loaded=not reason, reason=reason)


def _why_not_cuda(folder: Path) -> str:
    """Why the CUDA library cannot be used here; "" where it can."""
    if not (folder / CUDA_LIBRARY).is_file():
        return "it was not built (no nvcc when the package was built, or VQGAN_FAST_CUDA=0)"
    if torch.version.cuda is None:
        return f"this torch ({torch.__version__}) has no CUDA"
    driver = cuda_driver_version()
    if driver is None:
        return "there is no NVIDIA driver (libcuda.so.1 was not found)"
    # A driver runs every toolkit of its own major version, and older ones.
    toolkit = cuda_toolkit_version(folder)
    if driver[0] < int(toolkit.split(".")[0]):
        return (
            f"it was built with CUDA {toolkit}, the NVIDIA driver knows CUDA only up to "
            f"{driver[0]}.{driver[1]}: update the driver (580 or newer for CUDA 13) or build with "
            "an older toolkit"
        )
    return ""


def cuda_driver_version() -> tuple[int, int] | None:
    """The newest CUDA that the installed driver runs, (13, 0) for 13.0; None without a driver.

    Starts no CUDA context, so a process may still fork afterwards.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return version.value // 1000, version.value % 1000 // 10


def cuda_toolkit_version(folder: Path = _FOLDER) -> str:
    """The toolkit that compiled the CUDA library, such as "13.0.88"; "" if it was not built."""
    function = ctypes.CDLL(str(folder / CPU_LIBRARY)).vqgan_fast_cuda_version
    function.restype = ctypes.c_char_p
    return function().decode()
