"""What goes wrong in a loader's worker processes, told as it would be without workers.

torch raises a worker's error again with the worker's whole traceback as its message, and for a
worker that is gone a RuntimeError that does not say what to do.
"""

from __future__ import annotations

import multiprocessing.util
import re
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from torch.utils.data import Dataset

from .images import DataError

_PASSED = (DataError, OSError)  # whose message alone says what is wrong
_GONE = re.compile(r"DataLoader worker .*(killed by signal|exited unexpectedly)")

# A batch lies in memory that its worker hands over by a connection, at the moment it is taken.
_NO_CONNECTION = (ConnectionError, EOFError, FileNotFoundError)


class Told(Dataset[Any]):
    """A dataset whose errors of data are items like any other, to be raised in the main process."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> Any:
        try:
            return self.dataset[index]
        except _PASSED as error:
            return error


class Collate:
    """Collates samples; the first error among them instead, where there is one."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, samples: list[Any]) -> Any:
        for sample in samples:
            if isinstance(sample, _PASSED):
                return sample
        return self.collate(samples)


def told_by_workers(source: Iterator[Any]) -> Iterator[Any]:
    """The batches of a loader with workers, whose errors are raised with their own messages.

    Raises:
        DataError: a worker is gone; or as in the worker.
    """
    _tell_of_lost_workers()
    _end_with_the_process(source)

    def batches() -> Iterator[Any]:
        while True:
            try:
                batch = next(source)
            except StopIteration:
                return
            except (RuntimeError, *_NO_CONNECTION) as error:
                _raise(error)
            if isinstance(batch, _PASSED):
                raise batch
            yield batch

    return batches()


def ignore_signals(worker: int) -> None:
    """Ctrl-C and a cluster's SIGTERM reach workers too; the training process ends them itself."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _end_with_the_process(source: Iterator[Any]) -> None:
    """As the process ends, multiprocessing sends SIGTERM to the workers of a loader that something
    still refers to, such as the traceback of an error, and waits for them: ours would ignore it."""
    reference = weakref.ref(source)

    def kill() -> None:
        loader = reference()
        if loader is None:
            return
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # nobody need be told of these
        for worker in loader._workers:
            worker.kill()

    multiprocessing.util.Finalize(source, kill, exitpriority=0)


def _raise(error: Exception) -> NoReturn:
    if isinstance(error, RuntimeError) and not _GONE.search(str(error)):
        raise error
    reason = str(error).strip().rstrip(".") if isinstance(error, RuntimeError) else "no connection"
    raise DataError(
        f"a process that reads pictures is gone ({reason}): the system ends one where memory or "
        "/dev/shm is short; lower data.num_workers or the batch, or give the job more memory "
        "(docker run --ipc=host)"
    ) from error


def _tell_of_lost_workers() -> None:
    """Makes the error that torch raises as soon as a worker has died ours as well.

    It comes from torch's handler of SIGCHLD, wherever the main thread is at that moment.
    """
    handler = signal.getsignal(signal.SIGCHLD)
    ours = getattr(handler, "tells_of_lost_workers", False)
    if ours or not callable(handler) or threading.current_thread() is not threading.main_thread():
        return

    def tell(number: int, frame: Any) -> None:
        try:
            handler(number, frame)
        except RuntimeError as error:
            _raise(error)

    tell.tells_of_lost_workers = True
    signal.signal(signal.SIGCHLD, tell)
