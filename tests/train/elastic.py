"""Ranks under torchrun's own agent, which restarts them: for tests that kill some of them.

    python tests/train/elastic.py SCENARIOS.json

SCENARIOS.json holds a list of launches, one after the other. Ranks are forked from this process,
which has imported torch once: a launch takes a second where torchrun takes ten.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # by the optimizers' first use otherwise, in every rank of every life
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.nn.parallel import DistributedDataParallel

from vqgan_fast.models import LatentTransformer
from vqgan_fast.train import build_config, checkpoint_writer, train
from vqgan_fast.train.run_log import RunLog
from vqgan_fast.train.stopping import StopRequest
from vqgan_fast.train.training_state import TrainingState


def launch(scenario: dict[str, Any]) -> str:
    """Runs one launch to its end; "done", or what ended it.

    A scenario holds `config` and may hold `ranks`, `double`, `restarts` (allowed ones), `faults` (a
    list of [life, rank, kind, number], `life` counting torchrun's starts from 0),
    `config_of_rank` ({rank: keys}) and `keep` (a folder: each rank leaves there what its last
    checkpoint held, as a file of its own).
    """
    config = forked(scenario.get("ranks", 2), scenario.get("restarts", 0))
    try:
        elastic_launch(config, run_rank)(scenario)
    except ChildFailedError as error:
        return str(error)
    except SignalException as signalled:
        return signalled.sigval.name
    return "done"


def forked(ranks: int, restarts: int = 0) -> LaunchConfig:
    """torchrun's --standalone with ranks that are forked."""
    return LaunchConfig(
        1, 1, ranks, run_id=f"test{time.monotonic_ns()}", rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", max_restarts=restarts, monitor_interval=0.05,
        start_method="fork",
    )  # fmt: skip


def run_rank(scenario: dict[str, Any]) -> None:
    """One rank of one life."""
    torch.set_num_threads(1)
    if scenario.get("double"):
        torch.set_default_dtype(torch.float64)
    rank, life = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    for fault_life, fault_rank, kind, number in scenario.get("faults", ()):
        if (fault_life, fault_rank) == (life, rank):
            FAULTS[kind](number)
    if "keep" in scenario:
        keep_state(Path(scenario["keep"]) / f"rank_{rank}.pt")
    given = {**scenario["config"], **scenario.get("config_of_rank", {}).get(str(rank), {})}
    try:
        train(build_config(given))
    except (ValueError, RuntimeError, OSError) as error:
        print(f"rank {rank}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from error


def on_call(owner: Any, name: str, number: int, act: Any) -> None:
    """Do something before the `number`-th call of a method from now on, the first is 1."""
    original, calls = getattr(owner, name), []

    def counted(*arguments: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == number:
            act()
        return original(*arguments, **more)

    setattr(owner, name, counted)


def keep_state(file: Path) -> None:
    """Write this rank's tensors to a file as well whenever a checkpoint is saved."""
    save = TrainingState.save

    def saved(self: TrainingState, *arguments: Any, **more: Any) -> None:
        torch.save(self.shared, file)
        save(self, *arguments, **more)

    TrainingState.save = saved


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def end_launch_at(number: int) -> None:
    """What Slurm does to torchrun, in a step that lasts until torchrun has passed it on."""
    noted: list[int] = []
    on_call(StopRequest, "_note", 1, lambda: noted.append(1))

    def end() -> None:
        os.kill(os.getppid(), signal.SIGTERM)
        while not noted:
            time.sleep(0.01)

    on_call(RunLog, "advance", number, end)


def flip_a_bit() -> None:
    """One bit of one weight of this rank, as a broken memory would."""
    (model,) = (thing for thing in gc.get_objects() if isinstance(thing, DistributedDataParallel))
    next(model.parameters()).detach().view(torch.int32)[0, 0] ^= 1


def fill_disk(room: int = 1000) -> None:
    """As seen by this rank: no file can grow beyond so many bytes."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))


FAULTS = {
    "kill in step": lambda number: on_call(torch.Tensor, "backward", number, kill),
    "kill in checkpoint": lambda number: on_call(FileSystemWriter, "write_data", number, kill),
    "kill before the rename": lambda number: on_call(checkpoint_writer, "write_json", number, kill),
    "full disk": lambda number: on_call(FileSystemWriter, "write_data", number, fill_disk),
    "full disk in export": lambda number: on_call(
        LatentTransformer, "save_pretrained", number, fill_disk
    ),
    "full disk in pictures": lambda number: on_call(RunLog, "pictures", number, fill_disk),
    # Nothing can be written, not even the note in the run's lock or a line of the log.
    "full disk at the start": lambda number: fill_disk(0),
    "full disk in the log": lambda number: on_call(RunLog, "metrics", number, lambda: fill_disk(0)),
    "SIGTERM": end_launch_at,
    "bit flip": lambda number: on_call(RunLog, "advance", number, flip_a_bit),
}


if __name__ == "__main__":
    for scenario in json.loads(Path(sys.argv[1]).read_text()):
        start = time.monotonic()
        outcome = launch(scenario)
        print(json.dumps({"outcome": outcome, "seconds": time.monotonic() - start}), flush=True)
