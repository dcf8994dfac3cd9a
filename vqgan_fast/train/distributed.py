"""The ranks of a run: one process, or those that torchrun started."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from vqgan_fast.quantizers.ranks import sum_over_ranks

from .config import ConfigError
from .rank_environment import rank_environment

# The option's name in newer releases of torch, and in older ones.
_SYNC_BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in inspect.signature(DistributedDataParallel).parameters
)


@dataclass(frozen=True)
class Ranks:
    """This process among all: `rank` of `world_size`, computing on `device`.

    A rank that has waited for another as long as `timeout` takes it for lost.
    """

    rank: int
    world_size: int
    device: torch.device
    timeout: timedelta = timedelta(minutes=30)

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes files and speaks."""
        return self.rank == 0

    @property
    def on_cuda(self) -> bool:
        """Whether this process computes on a CUDA device."""
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Until every rank has come here."""
        if self.world_size > 1:
            dist.barrier()

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over ranks; the tensor itself is changed."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def largest(self, values: list[int]) -> list[int]:
        """The largest of each integer over ranks. On the CPU: the device is not waited for."""
        if self.world_size == 1:
            return values
        tensor = torch.tensor(values)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor.tolist()

    def gather(self, tensor: Tensor) -> Tensor:
        """The tensors of all ranks, concatenated along their first dimension in rank order."""
        if self.world_size == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def gather_objects(self, thing: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
        """What every rank gave, in rank order, on every rank; small things that can be pickled."""
        if self.world_size == 1:
            return [thing]
        things: list[Any] = [None] * self.world_size
        dist.all_gather_object(things, thing, group)
        return things

    def group_apart(self) -> dist.ProcessGroup | None:
        """A group of all ranks for CPU messages of another thread, which must not mix with those of
        the training; None where there is one rank. Every rank calls it."""
        if self.world_size == 1:
            return None
        return dist.new_group(backend="gloo", timeout=self.timeout)

    def parallel(self, module: torch.nn.Module) -> torch.nn.Module:
        """The module with its gradients averaged over ranks; itself where there is one rank.

        Buffers are not broadcast at every step: the only ones that change are batch statistics,
        which are equal on all ranks because they are taken over all ranks.

        On the CPU gradients are added in the order of ranks. The all-reduce of gloo adds in an
        order that depends on where a gradient lies in its bucket, and DistributedDataParallel lays
        its buckets out anew after the first step: with three ranks, a resumed run would differ in
        last bits from one that went on.
        """
        if self.world_size == 1:
            return module
        parallel = DistributedDataParallel(module, **{_SYNC_BUFFERS: False})
        if not self.on_cuda:
            parallel.register_comm_hook(None, _average_in_order)
        return parallel


def _average_in_order(state, bucket):
    """The mean of a `dist.GradBucket` over ranks, as a future of a tensor of its shape.

    Without annotations: torch compares them with its classes, and here they would be strings.
    """
    done: torch.futures.Future[Tensor] = torch.futures.Future()
    done.set_result(sum_over_ranks(bucket.buffer()) / dist.get_world_size())
    return done


@contextmanager
def join_ranks(device: str = "auto", timeout_minutes: float = 30.0) -> Iterator[Ranks]:
    """The ranks that torchrun's environment describes, one process without it.

    Trainings that follow each other in the same processes need a process group around all of them
    (torch.distributed cannot open one twice under torchrun): where there is one it is used.

    Args:
        device: "auto" takes this rank's CUDA device if there is one and the CPU otherwise.
        timeout_minutes: how long a rank waits for the others before it takes them for lost.

    Raises:
        ConfigError: device is "cuda" and there is none for this rank; the environment describes no
            ranks that can be; their port is taken; they do not find each other.
    """
    timeout = timedelta(minutes=timeout_minutes)
    if dist.is_initialized():  # by the caller, whose group it stays
        place = _device(device, int(os.environ.get("LOCAL_RANK") or "0"))
        yield Ranks(dist.get_rank(), dist.get_world_size(), place, timeout)
        return
    given = rank_environment()
    place = _device(device, given.local_rank)
    if given.world_size == 1:
        yield Ranks(0, 1, place)
        return
    # Small CPU messages (stop signals) travel by gloo beside nccl, without waiting for the GPU.
    backend = "cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo"
    try:
        store, rank, _ = next(dist.rendezvous("env://", timeout=timeout))
        store = dist.PrefixStore(_life(), store)
        dist.init_process_group(backend, None, timeout, given.world_size, rank, store)
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        if "EADDRINUSE" in str(error):  # nobody was waited for
            raise ConfigError(
                f"rank {given.rank} of {given.world_size} cannot listen at {given.address}: "
                "another program has that port; choose another MASTER_PORT, the same for all ranks"
            ) from error
        raise ConfigError(
            f"rank {given.rank} of {given.world_size} did not find the others at {given.address} "
            f"(MASTER_ADDR:MASTER_PORT) within {timeout_minutes:g} minutes: "
            f"{str(error).splitlines()[0]}"
        ) from error
    try:
        yield Ranks(rank, given.world_size, place, timeout)
    finally:
        dist.destroy_process_group()


def _life() -> str:
    """A name for this start of the ranks by torchrun, the same on all of them.

    torchrun may keep the store through which ranks find each other when it starts them anew (2.14
    does); under the same names they would find the addresses of dead processes. Its count of
    restarts is one torchrun's own: where there are several, TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    makes them begin a new store each time.
    """
    one_machine = os.environ.get("LOCAL_WORLD_SIZE") == os.environ.get("WORLD_SIZE")
    return f"life_{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}" if one_machine else "ranks"


def _device(device: str, local_rank: int) -> torch.device:
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "cpu" or (device == "auto" and available == 0):
        return torch.device("cpu")
    if local_rank >= available:
        raise ConfigError(
            f"this machine has {available} CUDA device(s), too few for rank {local_rank} on it; "
            "start fewer processes or use device: cpu"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
