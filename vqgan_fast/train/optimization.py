"""What both stages share around the optimizer: the learning rate, precision, accumulation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .config import Run
from .distributed import Ranks


def learning_rate(config: Run, ranks: Ranks) -> float:
    """optim.learning_rate, or base_learning_rate * batch_size * ranks * accumulate."""
    if config.optim.learning_rate is not None:
        return config.optim.learning_rate
    samples = config.data.batch_size * ranks.world_size * config.optim.accumulate
    return config.optim.base_learning_rate * samples


def autocast(config: Run, ranks: Ranks) -> torch.autocast:
    """The precision of the forward passes: bf16 where it is asked for."""
    enabled = config.optim.precision == "bf16"
    return torch.autocast(ranks.device.type, torch.bfloat16, enabled=enabled)


def averaged(model: nn.Module, decay: float | None) -> AveragedModel | None:
    """Exponentially averaged weights of a model, None without a decay."""
    if decay is None:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay)).requires_grad_(False)


@contextlib.contextmanager
def accumulating(more_to_come: bool, *modules: nn.Module) -> Iterator[None]:
    """While more micro-batches of the step come, gradients stay on their rank."""
    with contextlib.ExitStack() as stack:
        for module in modules:
            if isinstance(module, FSDPModule):
                module.set_requires_gradient_sync(not more_to_come)
            elif more_to_come and isinstance(module, DistributedDataParallel):
                stack.enter_context(module.no_sync())
        yield
