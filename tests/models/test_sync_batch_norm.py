"""Two gloo processes with a batch each do what one process does with both batches."""

from __future__ import annotations

import copy

import pytest
import torch
from ranks import run_on_two_ranks
from torch import nn

from vqgan_fast.models.sync_batch_norm import SyncBatchNorm2d, convert

CHANNELS = 5
SPLIT = 3  # rank 0 gets 3 of the 8 images, rank 1 the other 5
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-13}  # measured: 5e-7 and 2e-15


def make_case(dtype):
    generator = torch.Generator().manual_seed(0)
    x = 3 + 2 * torch.randn(8, 4, 6, 6, generator=generator)
    weight = torch.randn(8, CHANNELS, 6, 6, generator=generator) / 100
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(nn.Conv2d(4, CHANNELS, 1), nn.BatchNorm2d(CHANNELS), nn.Tanh())
        nn.init.normal_(model[1].weight)
        nn.init.normal_(model[1].bias)
    return x.to(dtype), weight.to(dtype), model.to(dtype)


def run_case(model, x, weight):
    """Two training steps' worth of forward and backward, then one pass in eval mode."""
    x = x.clone().requires_grad_()
    model.train()
    model(x)
    y = model(x)
    (weight * y).sum().backward()
    model.eval()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {"y": y.detach(), "x.grad": x.grad, "eval": model(x).detach()}, gradients


def run_rank(rank, folder):
    mine = slice(0, SPLIT) if rank == 0 else slice(SPLIT, None)
    results = {}
    for dtype in TOLERANCE:
        x, weight, model = make_case(dtype)
        keys = list(model.state_dict())
        assert convert(model) is model
        assert type(model[1]) is SyncBatchNorm2d
        assert list(model.state_dict()) == keys
        outputs, gradients = run_case(model, x[mine], weight[mine])
        results[dtype] = outputs, gradients, model.state_dict()
    one_value = torch.randn(1 - rank, CHANNELS, 1, 1)  # on rank 0 alone
    layer = convert(nn.BatchNorm2d(CHANNELS))
    with pytest.raises(ValueError, match=r"more than 1 value per channel .* got 1"):
        layer(one_value)
    assert layer.running_var.isfinite().all() and layer.num_batches_tracked == 0
    torch.save(results, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sync_batch_norm")
    run_on_two_ranks(run_rank, folder)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_two_ranks_equal_one_process_with_both_batches(two_ranks, dtype):
    x, weight, model = make_case(dtype)
    outputs, gradients = run_case(model, x, weight)
    (outputs_0, gradients_0, state_0), (outputs_1, gradients_1, state_1) = (
        rank[dtype] for rank in two_ranks
    )
    tolerance = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    for name, expected in outputs.items():
        got = torch.cat([outputs_0[name], outputs_1[name]])
        torch.testing.assert_close(got, expected, **tolerance)
    for name, expected in gradients.items():  # each rank holds its images' share of the sum
        torch.testing.assert_close(gradients_0[name] + gradients_1[name], expected, **tolerance)
    for name, expected in model.state_dict().items():
        torch.testing.assert_close(state_0[name], expected, **tolerance)
        assert torch.equal(state_0[name], state_1[name]), name


def test_one_process_is_left_as_it_is():
    x, weight, model = make_case(torch.float64)
    assert convert(model) is model
    assert type(model[1]) is nn.BatchNorm2d
    synced = copy.deepcopy(model)
    synced[1].__class__ = SyncBatchNorm2d
    expected, expected_gradients = run_case(model, x, weight)
    got, gradients = run_case(synced, x, weight)
    for name in expected:
        assert torch.equal(got[name], expected[name])
    for name in expected_gradients:
        assert torch.equal(gradients[name], expected_gradients[name])
