"""All that decides how a run goes on: saved into a checkpoint and restored from one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from .agreement import check_same_weights
from .checkpoint import load_tensors, read_state
from .checkpoint_writer import CheckpointWriter
from .config import ConfigError
from .distributed import Ranks
from .run_log import OTHER_EPOCH, say
from .sharding import own_part

# What a checkpoint may hold and a run not read: averages of a run that goes on without
# optim.ema_decay, and what belongs to ranks or devices that are no longer there.
UNREAD = ("average/", "rank_")


class TrainingState:
    """The tensors of a run by name, the random states, and how far the run has come.

    Args:
        shared: tensors that are equal on every rank, or cut over them, by name.
        own: tensors that each rank has for itself, by name; only their sum over ranks counts.
        batch_size: samples behind each thing that `own` counts.
        data: what is trained on, in words that change with it.
        frozen: a fingerprint of the weights that are trained upon and are not in the checkpoint.
    """

    def __init__(
        self,
        shared: Mapping[str, Tensor],
        own: Mapping[str, Tensor],
        ranks: Ranks,
        batch_size: int,
        data: str = "",
        frozen: str = "",
    ) -> None:
        self.batch_size = batch_size
        self.shared, self.ranks, self.data, self.frozen = dict(shared), ranks, data, frozen
        self.own = {self._own_name(name): tensor for name, tensor in own.items()}

    def save(
        self, writer: CheckpointWriter, step: int, samples: int, log_every: int | None = None
    ) -> None:
        """Write a checkpoint; every rank calls it.

        Args:
            step: finished steps.
            samples: training samples seen, of all ranks.
            log_every: steps of an interval of the log, whose sums are in the checkpoint.

        Raises:
            FloatingPointError: a weight is NaN or infinite; nothing is written.
            RanksDifferError: ranks no longer hold the same; nothing is written.
            CheckpointError: it cannot be written.
        """
        whole = {k: v for k, v in self.shared.items() if not isinstance(v, DTensor)}
        check_same_weights(whole, self.ranks, step)
        floating = {k: own_part(v) for k, v in self.shared.items() if v.is_floating_point()}
        broken = torch.stack([v.isfinite().logical_not().sum() for v in floating.values()])
        for name, count in zip(floating, self.ranks.sum(broken).tolist(), strict=True):
            if count:
                check_finite(name, math.nan, step)
        tensors = {**self.shared, **self.own, **self._random_states()}
        state = {
            "step": step, "samples": samples, "world_size": self.ranks.world_size,
            "batch_size": self.batch_size, "data": self.data, "frozen": self.frozen,
        }  # fmt: skip
        if log_every is not None:
            state["log_every"] = log_every
        writer.save(step, tensors, state)

    def restore(self, checkpoint: Path) -> tuple[int, int]:
        """Go on from a checkpoint; every rank calls it.

        Random states and the sums of the log interval belong to their ranks. On another number of
        ranks random states start anew, and rank 0 takes the sums of all.

        Returns:
            finished steps, samples seen.

        Raises:
            ConfigError: it belongs to another configuration, or to other frozen weights.
            CheckpointError: it cannot be read.
        """
        state = read_state(checkpoint)
        if state.get("frozen", self.frozen) != self.frozen:
            raise ConfigError(
                f"the checkpoint {checkpoint} was trained on the codes of another VQGAN "
                f"(first_stage, or that of a condition): its weights were {state['frozen']}, now "
                f"they are {self.frozen}. Give the one that the run began with, or choose another "
                "run_dir"
            )
        tensors = dict(self.shared)
        random_states = self._random_states()
        if self.ranks.is_main and state.get("data", self.data) != self.data:
            say(
                f"WARNING: the training data are {self.data}; when {checkpoint} was written they "
                f"were {state['data']}: {OTHER_EPOCH}"
            )
        same_ranks = state["world_size"] == self.ranks.world_size
        sums = self.own if same_ranks else self._of_all_ranks(state["world_size"])
        tensors.update(sums)
        if same_ranks:
            tensors.update(random_states)
        load_tensors(checkpoint, tensors, self.ranks, UNREAD)
        if same_ranks:
            self._set_random_states(random_states)
        else:
            self._add_up(sums)
        self._weigh(state)
        return state["step"], state["samples"]

    def _of_all_ranks(self, world_size: int) -> dict[str, Tensor]:
        """Room for what each of the ranks of a checkpoint had for itself, by its name there."""
        return {
            f"rank_{rank}/{name.partition('/')[2]}": torch.zeros_like(tensor)
            for rank in range(world_size)
            for name, tensor in self.own.items()
        }

    def _add_up(self, sums: Mapping[str, Tensor]) -> None:
        """Rank 0 has what all ranks had together, and the others nothing."""
        for name, tensor in self.own.items():
            tensor.zero_()
            if self.ranks.is_main:
                for other, value in sums.items():
                    if other.partition("/")[2] == name.partition("/")[2]:
                        tensor += value

    def _weigh(self, state: Mapping[str, Any]) -> None:
        """What counts batches of another size counts as many of this run's as have its samples.

        So a mean over an interval is one over samples, on however many ranks its steps were done.
        """
        # A checkpoint of an older version does not say: on other ranks the step stayed what it was.
        ranks, size = state["world_size"], self.batch_size
        before = state.get("batch_size", size * self.ranks.world_size / ranks)
        if before != size:
            for tensor in self.own.values():
                tensor *= before / size

    def _own_name(self, name: str) -> str:
        return f"rank_{self.ranks.rank}/{name}"

    def _random_states(self) -> dict[str, Tensor]:
        states = {self._own_name("random/cpu"): torch.get_rng_state()}
        if self.ranks.on_cuda:
            cuda = torch.cuda.get_rng_state(self.ranks.device)
            states[self._own_name("random/cuda")] = cuda
        return states

    def _set_random_states(self, states: Mapping[str, Tensor]) -> None:
        torch.set_rng_state(states[self._own_name("random/cpu")])
        if self.ranks.on_cuda:
            torch.cuda.set_rng_state(states[self._own_name("random/cuda")], self.ranks.device)


def check_finite(name: str, value: float, step: int) -> None:
    """Stop before a broken model replaces a sound checkpoint.

    Raises:
        FloatingPointError: the value is NaN or infinite.
    """
    if not math.isfinite(value):
        raise FloatingPointError(
            f"{name} is {value} at step {step}; the checkpoints written so far are kept. Resume "
            "with a lower optim.learning_rate, or with optim.precision=fp32"
        )


def create_optimizer_state(optimizer: Optimizer) -> None:
    """Let the optimizer create its state now, so that a checkpoint can be read into it.

    Adam creates it at the first step, and starts from zeros: those are put there.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    for state in optimizer.state.values():
        for tensor in state.values():
            tensor.zero_()


def named_tensors(name: str, module: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """A module's parameters and buffers and its optimizer's state, named behind `name`."""
    tensors = module_tensors(name, module)
    create_optimizer_state(optimizer)
    for parameter_name, parameter in module.named_parameters():
        for key, value in optimizer.state[parameter].items():
            tensors[f"{name}_optimizer/{parameter_name}/{key}"] = value
    return tensors


def module_tensors(name: str, module: nn.Module | None) -> dict[str, Tensor]:
    """A module's parameters and buffers, named behind `name`; nothing for no module."""
    if module is None:
        return {}
    return {f"{name}/{key}": tensor for key, tensor in module.state_dict().items()}
