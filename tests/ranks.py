"""Two ranks of a process group for a test: forked from a server that has imported torch once."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_on_two_ranks(function: Callable[..., None], folder: Path, *args: Any) -> None:
    """Calls function(rank, folder, *args) in two processes of one gloo group, one thread each.

    Raises what either raises. `folder` must be empty of an earlier meeting's file `store`.
    """
    multiprocessing.set_forkserver_preload(["torch._dynamo", "torchvision", "vqgan_fast.train"])
    mp.start_processes(_run_rank, (function, folder, args), nprocs=2, start_method="forkserver")


def _run_rank(rank: int, function: Callable[..., None], folder: Path, args: tuple) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    try:
        function(rank, folder, *args)
    finally:
        dist.destroy_process_group()
