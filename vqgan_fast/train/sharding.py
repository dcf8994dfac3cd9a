"""Models too large for one card: weights cut over ranks, activations computed twice.

Both leave names, numbers and checkpoints as they are: a checkpoint of sharded weights goes on with
whole ones, or on another number of ranks, and the other way round.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from vqgan_fast.models import gpt, pixel_snail
from vqgan_fast.models.layers import AttnBlock, ResnetBlock

from .config import Run
from .distributed import Ranks

# What activation checkpointing computes anew.
BLOCKS = (ResnetBlock, AttnBlock, gpt.Block, pixel_snail.Block)


def checkpoint_activations(models: Iterable[nn.Module]) -> None:
    """Keep the inputs of each block instead of its activations, which backward computes again."""
    for model in models:
        for block in [part for part in model.modules() if isinstance(part, BLOCKS)]:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def shard(model: nn.Module, config: Run, ranks: Ranks) -> None:
    """Cut a transformer's weights over all ranks (FSDP2), in place, before its optimizer is made.

    Each rank keeps its part of every weight, gradient and optimizer state; a block's whole weights
    are gathered while it computes, in bf16 where that is the precision. Gradients are summed in
    fp32.
    """
    mesh = init_device_mesh(ranks.device.type, (ranks.world_size,))
    half = torch.bfloat16 if config.optim.precision == "bf16" else None
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32 if half else None)
    for block in getattr(model, "blocks", ()):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    # By default the outermost weights stay whole after forward: without a backward pass (figures
    # on held-out pictures) for good, and the weights' averaging would meet them so.
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=True)


def whole_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state dict with whole weights, on the CPU of rank 0 where they are cut; all call it."""
    if not isinstance(model, FSDPModule):
        return model.state_dict()
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return get_model_state_dict(model, options=options)


def own_part(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
