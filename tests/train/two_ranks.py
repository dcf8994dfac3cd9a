"""Both stages on two ranks; test_distributed.py compares with one process.

python tests/train/two_ranks.py PICTURES FIRST_STAGE OUT BATCH_SIZE
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from elastic import forked
from tiny import transformer_run, vqgan_run
from torch.distributed.launcher.api import elastic_launch

from vqgan_fast.train import train

STEPS = 10


def run_all(pictures: Path, first_stage: Path, out: Path, batch_size: int) -> None:
    """Ten steps of each stage, with all that could differ between ranks switched on."""
    common = {
        "data__train": str(pictures), "data__validation": str(pictures), "optim__ema_decay": 0.9,
        "data__batch_size": batch_size, "optim__steps": STEPS, "log__checkpoint_every": 5,
    }  # fmt: skip
    stage_1 = {**common, "codebook__restart_dead_codes": True, "codebook__restart_after": 4}
    train(vqgan_run(pictures, out / "vqgan", optim__learning_rate=None, **stage_1))
    # In double precision rounding cannot hide a mistake, nor a kink of the loss look like one.
    torch.set_default_dtype(torch.float64)
    try:
        changes = {**stage_1, "data__size": 16, "optim__accumulate": 2, "optim__steps": 5}
        train(vqgan_run(pictures, out / "double", **changes))
    finally:
        torch.set_default_dtype(torch.float32)
    train(transformer_run(first_stage, out / "transformer", pkeep=0.8, **common))


def run_rank(pictures: str, first_stage: str, out: str, batch_size: str) -> None:
    """All of it on one rank, in one process group."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    run_all(Path(pictures), Path(first_stage), Path(out), int(batch_size))
    dist.destroy_process_group()


if __name__ == "__main__":
    elastic_launch(forked(2), run_rank)(*sys.argv[1:])
