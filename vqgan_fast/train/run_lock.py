"""One process trains in a run's folder: rank 0 holds a lock on a file there as long as it does.

The lock is the kernel's, and goes with the process however that ends, `kill -9` included. Where the
file system has none, training goes on without, and says so.
"""

from __future__ import annotations

import errno
import os
import platform
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from .config import ConfigError
from .distributed import Ranks
from .run_log import say

try:
    import fcntl
except ImportError:  # not on POSIX
    fcntl = None

LOCK = ".lock"
# Seconds: torchrun may start ranks anew while one that was killed is still going.
PATIENCE = 10.0
# What file systems say that have no locks: NFS without its daemon, Lustre without its option.
WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_held: set[int] = set()


@contextmanager
def locked(run_dir: str | Path, ranks: Ranks) -> Iterator[None]:
    """Keep other processes out of a run's folder, which is made if need be; every rank calls it.

    If nothing is put into the folder meanwhile, it is as if it had never been made.

    Raises:
        ConfigError: on every rank, if another process trains in the folder, or it cannot be one.
    """
    with ExitStack() as stack:
        refusal = None
        if ranks.is_main:
            # Half of what the others wait for this rank.
            patience = min(PATIENCE, ranks.timeout.total_seconds() / 2)
            try:
                stack.enter_context(_locked(Path(run_dir), patience))
            except ConfigError as error:
                refusal = str(error)
            except OSError as error:
                refusal = f"run_dir {run_dir} cannot be used: {error}"
        refusal = ranks.gather_objects(refusal)[0]
        if refusal is not None:
            raise ConfigError(refusal)
        yield


@contextmanager
def _locked(run_dir: Path, patience: float) -> Iterator[None]:
    if run_dir.is_symlink() and not run_dir.exists():
        raise ConfigError(
            f"run_dir must be a folder, {run_dir} is a link to {os.readlink(run_dir)}, which is "
            "not there"
        )
    if run_dir.exists() and not run_dir.is_dir():
        raise ConfigError(f"run_dir must be a folder, {run_dir} is a file")
    made = [folder for folder in (run_dir, *run_dir.parents) if not folder.exists()]
    descriptor = _acquire(run_dir, patience)
    _held.add(descriptor)
    try:
        yield
    finally:
        _held.discard(descriptor)
        with suppress(OSError):
            if _is_at(descriptor, run_dir / LOCK):  # somebody may have removed the folder
                os.unlink(run_dir / LOCK)
        os.close(descriptor)
        with suppress(OSError):
            for folder in made:  # the innermost first; one with something in it stays
                folder.rmdir()


def _acquire(run_dir: Path, patience: float) -> int:
    """The open and locked file, with who holds it written into it."""
    end, holder, waits = time.monotonic() + patience, "unknown", False
    while True:
        # Another process, which has made the folder too, may remove it at any moment.
        with suppress(FileNotFoundError, FileExistsError):
            run_dir.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(run_dir / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
            if _try_lock(descriptor, run_dir):
                return descriptor
            holder = os.pread(descriptor, 1000, 0).decode(errors="replace") or "unknown"
            os.close(descriptor)
            if not waits:
                say(f"another process ({holder}) is training in {run_dir}: waiting for its end")
            waits = True
        if time.monotonic() > end:
            raise ConfigError(
                f"another process ({holder}) is training in run_dir {run_dir}: choose another "
                "run_dir, or end that process and go on from its newest checkpoint with resume=true"
            )
        time.sleep(0.1)


def _try_lock(descriptor: int, run_dir: Path) -> bool:
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            os.close(descriptor)
            raise
        say(
            f"WARNING: the file system of {run_dir} has no locks ({error.strerror}): nothing keeps "
            "another process from training in it"
        )
    if not _is_at(descriptor, run_dir / LOCK):
        return False  # it was removed by the process that had it
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"host {platform.node()}, pid {os.getpid()}".encode(), 0)
    return True


def _is_at(descriptor: int, file: Path) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(file))
    except FileNotFoundError:
        return False


def _let_go_in_child() -> None:
    """Close what a forked child has from its parent.

    A loader's worker lives some seconds longer than a process that was killed, and would hold its
    lock.
    """
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)
