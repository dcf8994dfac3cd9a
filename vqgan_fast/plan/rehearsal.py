"""One training step of either stage with tensors that have shapes and no memory.

The models, losses and their backward passes are those of training; only the loop around them is
said again here. `tests/plan` holds what comes out against the measured peak of real runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vqgan_fast.data import to_model_range
from vqgan_fast.models import VQGAN
from vqgan_fast.models.code_logits import code_logits
from vqgan_fast.train.check_sizes import check_unmasked
from vqgan_fast.train.config import TransformerRun, VQGANRun
from vqgan_fast.train.sharding import BLOCKS
from vqgan_fast.train.stage1 import build_loss
from vqgan_fast.train.stage2 import build_transformer

from .allocations import Allocations
from .conditions import PlannedCondition, planned_map
from .load import FirstStages


@dataclass(frozen=True)
class StepMemory:
    """Bytes that one process holds at the peak of a step, in one process alone."""

    weights: int  # trained
    fixed: int  # weights that are not trained, and buffers
    average: int  # averaged weights
    optimizer: int
    gradients: int
    working: int  # activations and temporaries, as far as the peak exceeds the gradients
    activations: int  # activations and temporaries at their own peak, earlier than the gradients'
    largest_block: int  # of the trained weights

    @property
    def total(self) -> int:
        """All of it."""
        return (
            self.weights + self.fixed + self.average + self.optimizer + self.gradients
            + self.working
        )  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """What changes memory and not the model."""

    batch_size: int  # of one process
    precision: str = "fp32"  # or bf16
    checkpointing: bool = False  # activations of a block are computed anew in the backward pass


class Rehearsal:
    """The models of a configuration, and what a step of them holds under any setting.

    Args:
        config: of either stage.
        stages: of a stage-2 configuration: what it builds on.

    Raises:
        ConfigError: a VQGAN does not fit what it is for.
    """

    def __init__(
        self, config: VQGANRun | TransformerRun, stages: FirstStages | None = None
    ) -> None:
        self.config = config
        self._mode = FakeTensorMode()
        with self._mode:
            if isinstance(config, VQGANRun):
                loss = replace(config.loss)
                if loss.kind == "vqgan":
                    loss.perceptual_weights = "random"  # as large as the pretrained ones
                self.vqgan = VQGAN(**config.vqgan_arguments())
                self.loss = build_loss(loss, config.model.out_ch)
                self._trained: list[nn.Module] = [self.vqgan]
                if self.loss.discriminator is not None:
                    self._trained.append(self.loss.discriminator)
                others: list[nn.Module] = [self.loss]
                averaged: nn.Module = self.vqgan
            else:
                self.vqgan = VQGAN(**vars(stages.codes)).requires_grad_(False)
                self.condition = PlannedCondition(config, self.vqgan, stages)
                side = config.data.size // self.vqgan.downsampling_factor
                self.grid = stages.grid or (side, side)
                cells = self.grid[0] * self.grid[1]
                needed = max(self.vqgan.quantize.codebook_size, self.condition.vocab_size)
                known = self.condition.length(cells)
                check_unmasked(config.gpt.n_unmasked, known)
                self.transformer = build_transformer(
                    config.transformer, config.gpt, needed + bool(config.cond_drop_prob),
                    known + cells,
                )  # fmt: skip
                self._trained = [self.transformer]
                others = [self.vqgan, *self.condition.stages]
                averaged = self.transformer
        self._weights = sum(_bytes(part.parameters()) for part in self._trained)
        everything = {
            id(tensor): tensor
            for part in (*self._trained, *others)
            for tensor in (*part.parameters(), *part.buffers())
        }
        self._fixed = _bytes(everything.values()) - self._weights
        has_average = config.optim.ema_decay is not None
        self._average = _bytes((*averaged.parameters(), *averaged.buffers())) * has_average

    def step(self, setting: Setting) -> StepMemory:
        """The memory of a step."""
        run = self._vqgan_step if isinstance(self.config, VQGANRun) else self._transformer_step
        with self._mode, _checkpointing(self._trained, setting.checkpointing):
            allocations = Allocations()
            with allocations:
                # Gradients of the micro-batches before lie there already.
                for _ in range(min(2, self.config.optim.accumulate)):
                    run(setting)
            parameters = [p for part in self._trained for p in part.parameters()]
            activations = allocations.peak_without(p.grad for p in parameters if p.grad is not None)
            for part in self._trained:
                part.zero_grad()
        return StepMemory(
            weights=self._weights,
            fixed=self._fixed,
            average=self._average,
            optimizer=2 * self._weights,  # Adam's two moments
            gradients=self._weights,
            working=max(0, allocations.peak - self._weights),
            activations=activations,
            largest_block=max(
                (_bytes(block.parameters()) for block in _blocks(self._trained)), default=0
            ),
        )

    def _vqgan_step(self, setting: Setting) -> None:
        data, loss = self.config.data, self.loss
        game = loss.discriminator is not None and data.size >= loss.discriminator.smallest_side
        # The game is on; crops too small for it are those of a run that ends before it starts.
        step = loss.disc_start if game else -1
        x = planned_map(data.maps, setting.batch_size, data.size)
        with _autocast(setting):
            x_hat, quantizer_loss, _info = self.vqgan(x)
            g_loss, _logs = loss.generator_loss(
                x, x_hat, quantizer_loss, self.vqgan.last_layer, step
            )
        g_loss.backward()
        if loss.gan_is_on(step):
            with _autocast(setting):
                d_loss, _d_logs = loss.discriminator_loss(x, x_hat.detach(), step)
            d_loss.backward()

    def _transformer_step(self, setting: Setting) -> None:
        count, size = setting.batch_size, self.config.data.size
        if self.config.data.codes is None:
            images = torch.empty(count, 3, size, size, dtype=torch.uint8)
            with torch.no_grad():
                codes = self.vqgan.encode_indices(to_model_range(images))
            del images
        else:
            codes = torch.zeros(count, *self.grid, dtype=torch.int64)
        condition = self.condition.tokens(count, size)
        with _autocast(setting):
            logits = code_logits(self.transformer, condition, codes)
        F.cross_entropy(logits.flatten(0, 1).float(), codes.flatten()).backward()


def _autocast(setting: Setting) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=setting.precision == "bf16")


def _blocks(parts: list[nn.Module]) -> list[nn.Module]:
    return [m for part in parts for m in part.modules() if isinstance(m, BLOCKS)]


@contextmanager
def _checkpointing(parts: list[nn.Module], wanted: bool) -> Iterator[None]:
    blocks = _blocks(parts) if wanted else []
    for block in blocks:
        again = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
        block.forward = again
    try:
        yield
    finally:
        for block in blocks:
            del block.forward  # the class's own shows again


def _bytes(tensors) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
