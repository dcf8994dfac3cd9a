"""Writing checkpoints, at once or while training goes on; what lies in one: `checkpoint`.

All is written into a folder of another name, every rank its share of the tensors. The folder gets
its own name when every file is on disk, and only then are older checkpoints removed: whatever
happens before, the newest whole one stays as it is.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from .checkpoint import (
    MANIFEST,
    PREFIX,
    STATE,
    UNFINISHED,
    CheckpointError,
    describe_file,
    newest_first,
    sync_folder,
    write_json,
)
from .distributed import Ranks

T = TypeVar("T")
Sums = dict[str, dict[str, int]]  # what the manifest says of files, by name


class CheckpointWriter:
    """Writes the checkpoints of a run; every rank makes and calls it alike.

    Args:
        folder: of all checkpoints of the run.
        keep: how many checkpoints stay; older ones are removed once a new one is complete.
        background: `save` copies the tensors and returns; they are written beside the training,
            and what goes wrong there is raised by the next `save`, or by `finish`.

    Attributes:
        seconds: how long the last checkpoint took, from `save` until it was whole.
    """

    def __init__(self, folder: Path, keep: int, ranks: Ranks, background: bool = False) -> None:
        self.folder, self.keep, self.ranks = folder, keep, ranks
        self.seconds = 0.0
        self._thread = ThreadPoolExecutor(1) if background else None
        self._pending: Future[None] | None = None
        self._group = ranks.group_apart() if background else None

    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Write `folder/step_NNNNNN`.

        Args:
            step: the number of finished steps.
            tensors: by name. A name that several ranks have is written once, by one of them.
            state: what JSON can hold.

        Raises:
            CheckpointError: on every rank, if one of them cannot write it (or the one before, in
                the background); what was written of it is removed.
        """
        self.finish()
        start = time.monotonic()
        unfinished = self.folder / f"{UNFINISHED}{step:06d}"
        self._together(step, lambda: self._make_folder(unfinished))
        target: dict[str, Any] = {
            "storage_writer": dcp.FileSystemWriter(unfinished),
            "process_group": self._group,
            "no_dist": self.ranks.world_size == 1,
        }

        def complete(write: Callable[[], Any]) -> None:
            sums = self._together(step, lambda: self._write(write, unfinished))
            spent = time.monotonic() - start
            self._together(step, lambda: self._publish(step, unfinished, sums, state, spent))
            self.seconds = time.monotonic() - start

        if self._thread is None:
            complete(lambda: dcp.save(dict(tensors), **target))
            return
        # What is on the CPU already is written as it lies there; the rest is copied to it.
        copies = {
            name: tensor if tensor.is_cuda else tensor.detach().clone()
            for name, tensor in tensors.items()
        }
        written = dcp.async_save(copies, **target)
        self._pending = self._thread.submit(complete, written.result)

    def finish(self) -> None:
        """Until what is being written in the background is whole; errors as `save`."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._thread is not None:
            self._thread.shutdown()

    def _make_folder(self, unfinished: Path) -> None:
        if self.ranks.is_main:
            for leftover in self.folder.glob(f"{UNFINISHED}*"):
                shutil.rmtree(leftover)
            unfinished.mkdir(parents=True)

    def _write(self, write: Callable[[], Any], unfinished: Path) -> Sums:
        """Write this rank's share; its files' entries in the manifest."""
        write()
        own = sorted(unfinished.glob(f"__{self.ranks.rank}_*"))
        if self.ranks.is_main:
            own.append(unfinished / ".metadata")
        return {file.name: describe_file(file) for file in own}

    def _publish(
        self,
        step: int,
        unfinished: Path,
        sums: list[Sums],
        state: Mapping[str, Any],
        seconds: float,
    ) -> None:
        """Add what is no tensor, the manifest last, and give the folder its name."""
        if not self.ranks.is_main:
            return
        write_json(unfinished / STATE, {**state, "seconds": seconds})
        manifest = {STATE: describe_file(unfinished / STATE)}
        for own in sums:
            manifest |= own
        write_json(unfinished / MANIFEST, manifest)
        sync_folder(unfinished)
        unfinished.rename(self.folder / f"{PREFIX}{step:06d}")
        sync_folder(self.folder)
        for old in newest_first(self.folder)[self.keep :]:
            # One that cannot be removed (a file that someone reads, on NFS) is no reason to stop.
            shutil.rmtree(old, ignore_errors=True)

    def _together(self, step: int, act: Callable[[], T]) -> list[T]:
        """Do something on every rank, and tell each the results; if one fails, all raise."""
        result, reason = None, None
        try:
            result = act()
        except (OSError, CheckpointException) as error:
            reason = _reason(error)
        told = self.ranks.gather_objects((result, reason), self._group)
        reasons = [reason for _, reason in told if reason is not None]
        if not reasons:
            return [result for result, _ in told]
        newest = newest_first(self.folder)
        if self.ranks.is_main:
            shutil.rmtree(self.folder / f"{UNFINISHED}{step:06d}", ignore_errors=True)
        kept = f"the last whole one is {newest[0]}" if newest else "there is none before it"
        raise CheckpointError(
            f"the checkpoint of step {step} cannot be written: {reasons[0]}; {kept}. Put that "
            "right (is the disk full, or over its quota?) and go on with resume=true"
        )


def _reason(error: OSError | CheckpointException) -> str:
    """The failure itself, without the tracebacks of every rank."""
    if isinstance(error, CheckpointException):
        ((first, _), *_) = error.failures.values()
        while not isinstance(first, OSError) and (first.__cause__ or first.__context__):
            first = first.__cause__ or first.__context__
        error = first
    return str(error)
