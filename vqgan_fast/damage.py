"""Which compiled files of this installation are damaged, found without loading them.

The loader maps a library into memory and runs it: one that was cut off or changed may end the
process, with a signal and without a word.
"""

from __future__ import annotations

import base64
import hashlib
import signal
import subprocess
import sys
from importlib import metadata
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

_FOLDER = Path(__file__).resolve().parent
CPU_LIBRARY, CUDA_LIBRARY = "libvqgan_fast.so", "libvqgan_fast_cuda.so"
_USE_NATIVE = "from vqgan_fast import _native; _native.build_info(); _native.cpu_features()"
# What is printed last before the process ends is the file that ended it.
_LOAD_LIBRARIES = f"""
import torch
from vqgan_fast import _library
print({CPU_LIBRARY!r}, flush=True)
torch.ops.load_library(sys.argv[1] + "/vqgan_fast/{CPU_LIBRARY}")
print({CUDA_LIBRARY!r}, flush=True)
_library.load_libraries()
"""


def find_damage(folder: Path = _FOLDER) -> dict[str, str]:
    """What is wrong with each damaged file of the package, by name; none for one that is absent.

    A file is compared with the record of the wheel that it came from. Without one, as in a source
    checkout, it is loaded by another process first, which takes as long as importing torch.
    """
    native = [folder / f"_native{end}" for end in EXTENSION_SUFFIXES]
    native = [path for path in native if path.is_file()][:1]
    libraries = [path for path in (folder / CPU_LIBRARY, folder / CUDA_LIBRARY) if path.is_file()]
    record = _record()
    found, unknown = {}, set()
    for path in native + libraries:
        if path not in record:
            unknown.add(path)
        elif wrong := _difference(path, *record[path]):
            found[path.name] = wrong
    if unknown.intersection(native):
        found |= _try(folder, _USE_NATIVE, native[0].name)
    if unknown.intersection(libraries) and not found.keys() & {CPU_LIBRARY, CUDA_LIBRARY}:
        found |= _try(folder, _LOAD_LIBRARIES)
    return found


def _record() -> dict[Path, tuple[int | None, str]]:
    """Size and SHA-256 of each compiled file, as the installed wheel names them."""
    try:
        files = metadata.files("vqgan_fast") or []
    except metadata.PackageNotFoundError:
        return {}
    return {
        Path(entry.locate()).resolve(): (entry.size, entry.hash.value)
        for entry in files
        if entry.suffix in (".so", ".pyd") and entry.hash and entry.hash.mode == "sha256"
    }


def _difference(path: Path, size: int | None, digest: str) -> str:
    """How a file differs from what was installed; "" where it does not."""
    content = path.read_bytes()
    if size is not None and len(content) != size:
        return f"it has {len(content)} bytes, {size} were installed"
    ours = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return "" if ours == digest else "its content is not what was installed (SHA-256)"


def _try(folder: Path, code: str, name: str = "") -> dict[str, str]:
    """Runs code in another process; the file that ended it by a signal, if one did.

    An error in Python is left to whoever loads the file: it ends no process.
    """
    code = f"import sys; sys.path.insert(0, sys.argv[1])\n{code}"
    command = [sys.executable, "-c", code, str(folder.parent)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False
    )
    name = name or next(iter(done.stdout.split()[-1:]), "")
    if done.returncode >= 0 or not name:
        return {}
    return {name: f"loading it ends a process with {_signal_name(-done.returncode)}"}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
