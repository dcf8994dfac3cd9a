"""What a checkpoint is made of."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from vqgan_fast.train.training_state import create_optimizer_state, named_tensors


def train(module, optimizer, steps):
    x = torch.arange(12.0).view(3, 4)
    for _ in range(steps):
        module(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("fused", [True, False])
def test_state_created_early_is_the_state_of_the_first_step(kind, fused):
    torch.manual_seed(0)
    early = nn.Linear(4, 2)
    late = copy.deepcopy(early)
    optimizers = [kind(m.parameters(), 0.1, weight_decay=0.3, fused=fused) for m in (early, late)]
    create_optimizer_state(optimizers[0])
    assert torch.equal(early.weight, late.weight) and early.weight.grad is None
    for module, optimizer in zip((early, late), optimizers, strict=True):
        train(module, optimizer, 3)
    assert torch.equal(early.weight, late.weight) and torch.equal(early.bias, late.bias)


def test_the_tensors_are_the_living_ones_and_carry_names():
    module = nn.Linear(4, 2)
    optimizer = torch.optim.Adam(module.parameters(), 0.1)
    tensors = named_tensors("model", module, optimizer)
    assert set(tensors) == {
        "model/weight", "model/bias",
        *(f"model_optimizer/{name}/{key}" for name in ("weight", "bias")
          for key in ("step", "exp_avg", "exp_avg_sq")),
    }  # fmt: skip
    train(module, optimizer, 2)
    assert torch.equal(tensors["model/weight"], module.weight)
    assert tensors["model_optimizer/bias/step"] == 2
    assert tensors["model_optimizer/bias/exp_avg"].abs().sum() > 0
