"""Activation normalisation with statistics of the first batch (Kingma and Dhariwal 2018)."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..quantizers.ranks import world_size


class ActNorm(nn.Module):
    """scale * (x + loc) for each channel, learned after a start that whitens the first batch.

    The first forward pass in training mode sets loc = -mean and scale = 1 / (std + 1e-6) of that
    batch, over all ranks of a distributed run, so that their copies stay equal. It is a ValueError
    if that batch has one value per channel: there is no deviation of it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.scale = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.register_buffer("initialized", torch.tensor(0, dtype=torch.uint8))
        # Host-side copy of the buffer: reading the buffer itself would wait for the device.
        self._known_initialized = False

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not self._known_initialized:
            if not self.initialized:
                self._initialize(x.detach())
            self._known_initialized = True
        return self.scale * (x + self.loc)

    @torch.no_grad()
    def _initialize(self, x: Tensor) -> None:
        values = x.movedim(1, 0).flatten(1).float()
        count = values.shape[1]
        if world_size() > 1:
            count = int(_sum_over_ranks(torch.tensor(count, device=x.device)))
        if count < 2:
            raise ValueError(
                f"x must have more than 1 value per channel to start from, got {count}"
            )
        mean = _sum_over_ranks(values.sum(1)) / count
        variance = _sum_over_ranks((values - mean[:, None]).square().sum(1)) / (count - 1)
        self.loc.copy_(-mean.view_as(self.loc))
        self.scale.copy_(1 / (variance.sqrt().view_as(self.scale) + 1e-6))
        self.initialized.fill_(1)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._known_initialized = False


def _sum_over_ranks(total: Tensor) -> Tensor:
    if world_size() > 1:
        dist.all_reduce(total)
    return total
