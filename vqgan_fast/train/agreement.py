"""What all ranks of a run must have in common: versions, configuration, and the same weights."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

import vqgan_fast
from vqgan_fast.data.images import LeftOutWarning

from .config import ConfigError, Run
from .distributed import Ranks
from .run_folder import flatten

PART = 1 << 20  # elements that are summed at once: as int64 they are another copy of the tensor


class RanksDifferError(RuntimeError):
    """Ranks that should hold the same weights do not."""


def start_together(config: Run, ranks: Ranks) -> Run:
    """The configuration with this rank's `data.batch_size`; every rank calls it first.

    Raises:
        ConfigError: ranks differ in version, device or configuration, or `data.global_batch_size`
            cannot be shared out equally.
    """
    check_same(_describe(config, ranks), ranks)
    if not ranks.is_main:  # rank 0 says it
        warnings.filterwarnings("ignore", category=LeftOutWarning)
    return share_batch(config, ranks.world_size)


def check_same(described: Mapping[str, Any], ranks: Ranks) -> None:
    """Compare what ranks found, as machines may have copies of their own; every rank calls it.

    Args:
        described: by the name that an error gives it, in words or values that change with it.

    Raises:
        ConfigError: it is not the same on all of them.
    """
    hosts, descriptions = zip(
        *ranks.gather_objects((platform.node(), dict(described))), strict=True
    )
    first = descriptions[0]
    for rank, other in enumerate(descriptions):
        for name in [*first, *(name for name in other if name not in first)]:
            ours, theirs = first.get(name), other.get(name)
            if ours != theirs:
                raise ConfigError(
                    f"the ranks of a run must be alike: {name} is {ours} on rank 0 ({hosts[0]}) "
                    f"and {theirs} on rank {rank} ({hosts[rank]})"
                )


def share_batch(config: Run, world_size: int) -> Run:
    """The configuration with the `data.batch_size` that `data.global_batch_size`, if it is given,
    leaves to each of so many ranks.

    Raises:
        ConfigError: it cannot be shared out equally.
    """
    data, whole = config.data, config.data.global_batch_size
    if whole is None:
        return config
    parts = world_size * config.optim.accumulate
    if whole % parts:
        raise ConfigError(
            f"data.global_batch_size must be a multiple of ranks * optim.accumulate = "
            f"{world_size} * {config.optim.accumulate} = {parts}, got {whole}"
        )
    return replace(config, data=replace(data, batch_size=whole // parts))


def check_same_weights(tensors: Mapping[str, Tensor], ranks: Ranks, step: int) -> None:
    """Compare tensors over ranks, bit by bit; every rank calls it.

    What is compared is a sum of each tensor's bits as integers, weighed by their places: another
    value at one place, or two values exchanged, make another sum.

    Args:
        tensors: by name, the same names on every rank.

    Raises:
        RanksDifferError: on every rank, with the first name that differs.
    """
    if ranks.world_size == 1 or not tensors:
        return
    sums = torch.stack([fingerprint(tensor) for tensor in tensors.values()])
    all_sums = ranks.gather(sums[None])
    same = (all_sums == all_sums[0]).all(0).tolist()
    for name, is_same in zip(tensors, same, strict=True):
        if not is_same:
            raise RanksDifferError(
                f"{name} is not the same on all {ranks.world_size} ranks after step {step}, and "
                "should be to the bit: a rank computes wrongly, or a program changed its weights. "
                "Nothing was saved; resume=true goes on from the last checkpoint"
            )


def fingerprint(tensor: Tensor) -> Tensor:
    """The sum modulo 2^64 of a tensor's elements, their bits read as integers, each weighed by an
    odd number of its own place."""
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    bits = tensor.detach().contiguous().view(-1).view(integers[tensor.element_size()])
    weights = torch.arange(1, 2 * min(len(bits), PART) + 1, 2, device=bits.device)
    total = torch.zeros((), dtype=torch.int64, device=bits.device)
    for part in bits.split(PART):
        total = total * 0x9E3779B1 + (part * weights[: len(part)]).sum()
    return total


def _describe(config: Run, ranks: Ranks) -> dict[str, Any]:
    """What must be equal on every rank, by the name that an error gives it."""
    return {
        "the version of vqgan_fast": vqgan_fast.__version__,
        "the version of torch": torch.__version__,
        "the kind of device": ranks.device.type,
        **flatten(OmegaConf.to_container(OmegaConf.structured(config))),
    }
