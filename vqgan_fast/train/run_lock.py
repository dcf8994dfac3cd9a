"""One process trains in a run's folder: rank 0 holds a lock on a file there as long as it does.

The lock is the kernel's, and goes with the process however that ends, `kill -9` included. But with
a machine that dies it goes only when the file system's server has missed it. Where the file system
has none, training goes on without, and says so.
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
from .launch import is_restart
from .run_log import say

try:
    import fcntl
except ImportError:  # not on POSIX
    fcntl = None

LOCK = ".lock"
# Seconds: torchrun may start ranks anew while one that was killed is still going.
PATIENCE = 10.0
# Where another machine has the lock, which may have died: NFSv4 keeps it for 90 s by default.
PATIENCE_ELSEWHERE = 180.0
SILENCE = 30.0  # between two words on waiting
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
            longest = ranks.timeout.total_seconds() / 2  # half of what the others wait for this one
            try:
                stack.enter_context(_locked(Path(run_dir), longest))
            except ConfigError as error:
                refusal = str(error)
            except OSError as error:
                refusal = f"run_dir {run_dir} cannot be used: {error}"
        refusal = ranks.gather_objects(refusal)[0]
        if refusal is not None:
            raise ConfigError(refusal)
        yield


class _HeldError(Exception):
    """Another process has the lock: what it has written of itself."""

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder or "unknown"
        self.is_elsewhere = not holder.startswith(f"host {platform.node()},")


@contextmanager
def _locked(run_dir: Path, longest: float) -> Iterator[None]:
    for folder in (run_dir, *run_dir.parents):
        if folder.is_symlink() and not folder.exists():
            raise ConfigError(
                f"run_dir must be a folder, {run_dir} cannot be one: {folder} is a link to "
                f"{os.readlink(folder)}, which is not there"
            )
    if run_dir.exists() and not run_dir.is_dir():
        raise ConfigError(f"run_dir must be a folder, {run_dir} is a file")
    made = [folder for folder in (run_dir, *run_dir.parents) if not folder.exists()]
    descriptor = _acquire(run_dir, longest)
    if descriptor is None:
        yield
        return
    _held.add(descriptor)
    try:
        yield
    finally:
        _held.discard(descriptor)
        with suppress(OSError):
            if _is_at(descriptor, run_dir / LOCK):  # somebody may have removed the folder
                os.unlink(run_dir / LOCK)
        with suppress(OSError):  # it is closed even where the note turns out not to be written
            os.close(descriptor)
        with suppress(OSError):
            for folder in made:  # the innermost first; one with something in it stays
                folder.rmdir()


def _acquire(run_dir: Path, longest: float) -> int | None:
    """The open and locked file, waited for; None if the run is to go on without it."""
    start, silent_until = time.monotonic(), 0.0
    while True:
        waited = time.monotonic() - start
        try:
            return _lock(run_dir)
        except (FileNotFoundError, FileExistsError):
            # Another process, which has made the folder too, may remove it at any moment.
            if waited > min(PATIENCE, longest):
                raise
        except _HeldError as held:
            patience = min(PATIENCE_ELSEWHERE if held.is_elsewhere else PATIENCE, longest)
            if waited > patience:
                return _go_on_without(run_dir, held)
            if waited >= silent_until:
                say(
                    f"another process ({held.holder}) is training in {run_dir}: waiting for its "
                    f"end, {patience - waited:.0f} s at most"
                )
                silent_until = waited + SILENCE
        time.sleep(0.1)


def _go_on_without(run_dir: Path, held: _HeldError) -> None:
    """Refuse to, unless it is the lock of a machine that the same launch has lost."""
    if not (held.is_elsewhere and is_restart(run_dir)):
        raise ConfigError(
            f"another process ({held.holder}) is training in run_dir {run_dir}: choose another "
            "run_dir, or end that process and go on from its newest checkpoint with resume=true"
        )
    say(
        f"WARNING: {run_dir} is still locked by a process of this launch ({held.holder}), whose "
        "machine is taken for lost: going on without the lock, so that nothing keeps another "
        "process from training there"
    )


def _lock(run_dir: Path) -> int:
    """The open and locked file, with who holds it written into it."""
    run_dir.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(run_dir / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _flock(descriptor, run_dir)
        if not _is_at(descriptor, run_dir / LOCK):  # the process that had it has removed it
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(run_dir / LOCK))
    except BaseException:
        os.close(descriptor)  # and the lock with it
        raise
    # The note is for others to read: a full disk must not keep a run from going on to its end.
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"host {platform.node()}, pid {os.getpid()}".encode(), 0)
        os.fsync(descriptor)  # NFS would keep it on this machine as long as the file is open
    return descriptor


def _flock(descriptor: int, run_dir: Path) -> None:
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        note = b""
        with suppress(OSError):  # NFS, where the file has just been removed
            note = os.pread(descriptor, 1000, 0)
        raise _HeldError(note.decode(errors="replace")) from None
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        say(
            f"WARNING: the file system of {run_dir} has no locks ({error.strerror}): nothing keeps "
            "another process from training in it"
        )


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
