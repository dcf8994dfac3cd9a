"""Sums and draws over the ranks of a distributed run, the same bits on each of them."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """The number of ranks of the default process group, 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The sum of a tensor over all ranks, added in the order of ranks.

    The order of an all-reduce is the backend's own. Here each rank adds one slice of all tensors,
    in fp64 (integers as they are), and all exchange their slices: the traffic and the memory of an
    all-reduce, and one result whatever the backend. With one rank, the tensor itself.
    """
    ranks = world_size()
    if ranks == 1:
        return tensor
    share = -(-tensor.numel() // ranks)
    padded = tensor.new_zeros(ranks * share)
    padded[: tensor.numel()] = tensor.flatten()
    parts = torch.empty_like(padded)
    dist.all_to_all_single(parts, padded)
    total = torch.zeros(
        share,
        dtype=torch.float64 if tensor.is_floating_point() else tensor.dtype,
        device=tensor.device,
    )
    for part in parts.view(ranks, share):
        total += part
    _all_gather(padded, total.to(tensor.dtype))
    return padded[: tensor.numel()].view(tensor.shape)


def gather_rows(rows: Tensor) -> Tensor:
    """The rows (M, D) of all ranks, M the same on each, one rank after the other."""
    ranks = world_size()
    if ranks == 1:
        return rows
    gathered = rows.new_empty(ranks * len(rows), *rows.shape[1:])
    _all_gather(gathered, rows.contiguous())
    return gathered


def draw_rows(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """At most `count` of the rows (M, D) of all ranks, M of each rank its own, without repetition.

    The draw is one over all rows, one rank after the other: the same on every rank, and the same
    for any number of ranks that hold the same rows in this order. Each rank sends what is drawn of
    its own rows, and no others.

    Args:
        generator: on the CPU, in the same state on all ranks.
    """
    counts = gather_rows(torch.tensor([len(rows)], device=rows.device)).tolist()
    drawn = torch.randperm(sum(counts), generator=generator)[:count]
    if len(counts) == 1:
        return rows[drawn.to(rows.device)]
    drawn -= sum(counts[: dist.get_rank()])
    own = (drawn >= 0) & (drawn < len(rows))
    parts = rows.new_zeros(len(drawn), rows.shape[1])
    parts[own.to(rows.device)] = rows[drawn[own].to(rows.device)]
    return sum_over_ranks(parts)  # of one row and zeros: that row


def _all_gather(gathered: Tensor, part: Tensor) -> None:
    """Under its name in newer releases of torch (2.14), and in older ones."""
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    gather(gathered, part)
