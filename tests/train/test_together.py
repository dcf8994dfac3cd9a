"""What rank 0 does alone ends every rank where it fails, and with the same error."""

from __future__ import annotations

import errno
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
import torch
from safetensors import SafetensorError
from tiny import vqgan_run

from vqgan_fast.train import CheckpointError, ConfigError, run_folder
from vqgan_fast.train.distributed import Ranks
from vqgan_fast.train.run_folder import find_checkpoint
from vqgan_fast.train.together import RunWriteError, ask_main, write_together

SECONDS = 20.0


@dataclass(frozen=True)
class Threads(Ranks):
    """A rank that is a thread; one that waits for the other in vain has a BrokenBarrierError."""

    barrier: threading.Barrier = None
    told: dict[int, bytes] = field(default_factory=dict)

    def gather_objects(self, thing, group=None):
        self.told[self.rank] = pickle.dumps(thing)
        self.barrier.wait(SECONDS)
        things = [pickle.loads(self.told[rank]) for rank in range(self.world_size)]
        self.barrier.wait(SECONDS)
        return things

    def largest(self, values):
        return [max(column) for column in zip(*self.gather_objects(values), strict=True)]


def on_two_ranks(act):
    """What `act(ranks)` returns or raises on each of two ranks."""
    barrier, told = threading.Barrier(2), {}

    def run(rank):
        try:
            ranks = Threads(rank, 2, torch.device("cpu"), barrier=barrier, told=told)
            return act(ranks)
        except Exception as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(run, (0, 1)))


def test_the_answer_of_rank_0_is_that_of_all():
    assert on_two_ranks(lambda ranks: ask_main(lambda: ranks.rank + 5, ranks)) == [5, 5]


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied", "somewhere"),
        OSError(errno.ESTALE, "Stale file handle", "somewhere"),
        CheckpointError("all are damaged"),
        ConfigError("another run's"),
    ],
)
@pytest.mark.parametrize("name", ["_is_new", "_check_resumable", "newest_checkpoint"])
def test_what_only_rank_0_meets_in_the_folder_is_raised_on_every_rank(
    tmp_path, pictures, monkeypatch, error, name
):
    (tmp_path / "config.yaml").write_text("")
    monkeypatch.setattr(run_folder, "_check_resumable", lambda *arguments: [])

    def fail(*arguments):
        raise error

    monkeypatch.setattr(run_folder, name, fail)
    config = vqgan_run(pictures, tmp_path, resume=True)
    raised = on_two_ranks(lambda ranks: find_checkpoint(config, ranks))
    assert [type(one) for one in raised] == [type(error)] * 2
    assert [str(one) for one in raised] == [str(error)] * 2


@pytest.mark.parametrize(
    ("error", "asks"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), True),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), True),
        (OSError(errno.EFBIG, os.strerror(errno.EFBIG)), True),
        (SafetensorError("I/O error"), True),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES)), False),
        (OSError(errno.EROFS, os.strerror(errno.EROFS)), False),
    ],
)
def test_a_full_disk_is_thought_of_where_it_can_be_one(error, asks):
    def write_on(ranks):
        def write():
            if ranks.is_main:
                raise error

        write_together("the file", write, ranks)

    for raised in on_two_ranks(write_on):
        assert isinstance(raised, RunWriteError)
        assert raised.errno == getattr(error, "errno", None)
        assert str(raised).startswith(f"the file cannot be written: {error}. Put that right")
        assert ("is the disk full" in str(raised)) == asks
        assert str(raised).endswith("go on with resume=true")
