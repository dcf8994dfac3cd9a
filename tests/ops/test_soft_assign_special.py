"""`soft_assign` where results have to be special: ties, masks, extremes, noise."""

from __future__ import annotations

import pytest
import torch
from soft_assign_cases import (
    OUTPUTS,
    assert_near,
    dense,
    gradients,
    problem,
)

from vqgan_fast import ops
from vqgan_fast.ops.reference.soft_assign import gumbel_noise


def test_ties_go_to_the_lowest_code() -> None:
    codebook = torch.randn(9, 4)[torch.arange(1000) % 9]
    found = ops.soft_assign(codebook[:9].clone(), codebook, outputs=("indices",)).indices
    assert torch.equal(found, torch.arange(9))


def test_a_bias_of_minus_infinity_takes_codes_out(level: str) -> None:
    z, codebook, values, bias = problem(20, 600, 5, 3)
    kept = torch.arange(600) % 7 == 3
    kept[:300] = False  # whole blocks of codes
    found = ops.soft_assign(
        z,
        codebook,
        outputs=OUTPUTS,
        values=values,
        bias=bias.masked_fill(~kept, -torch.inf),
    )
    alone = dense(*(x.double() for x in (z, codebook[kept], values[kept], bias[kept])))
    for name in ("log_sum_exp", "expected", "entropy"):
        assert_near(getattr(found, name), getattr(alone, name), 1e-5)
    assert_near(found.mean_probability[kept], alone.mean_probability, 1e-5)
    assert (found.mean_probability[~kept] == 0).all()
    assert torch.equal(found.indices, kept.nonzero()[:, 0][alone.indices])


def test_masked_codes_get_no_gradient() -> None:
    inputs = [x.requires_grad_() for x in problem(20, 300, 5, 3)]
    z, codebook, values, bias = inputs
    mask = torch.zeros(300).index_fill_(0, torch.arange(0, 300, 2), -torch.inf)
    found = ops.soft_assign(z, codebook, outputs=OUTPUTS, values=values, bias=bias + mask)
    grads = gradients(found, [torch.randn(x.shape) for x in found[:4]], inputs)
    assert all(g.isfinite().all() for g in grads)
    assert all((g[::2] == 0).all() and (g[1::2] != 0).any() for g in grads[1:])


def test_values_that_are_not_finite() -> None:
    z, codebook, *_ = problem(20, 30, 4, 4)
    z[3, 1], z[5, 0] = torch.nan, torch.inf
    found = ops.soft_assign(z, codebook, outputs=OUTPUTS)
    bad = torch.zeros(20, dtype=torch.bool).index_fill_(0, torch.tensor([3, 5]), True)
    for name in ("log_sum_exp", "expected", "entropy"):
        values = getattr(found, name).reshape(20, -1)
        assert values[bad].isnan().all() and values[~bad].isfinite().all(), name
    assert (found.indices[bad] == 0).all()
    assert found.mean_probability.isnan().all()
    nothing = torch.full((30,), -torch.inf)
    empty = ops.soft_assign(z[:2], codebook, outputs=OUTPUTS, bias=nothing)
    assert (empty.log_sum_exp == -torch.inf).all() and empty.expected.isnan().all()
    assert (empty.indices == 0).all()


def test_extreme_temperatures(level: str) -> None:
    z, codebook, *_ = problem(40, 500, 6, 6)
    cold = ops.soft_assign(z, codebook, outputs=OUTPUTS, temperature=1e-6)
    indices = ops.nearest_code(z, codebook, return_distance=False)
    assert torch.equal(cold.indices, indices)
    assert_near(cold.expected, codebook[indices], 1e-5)
    assert_near(cold.entropy, torch.zeros(40), 1e-5)
    hot = ops.soft_assign(z, codebook, outputs=OUTPUTS, temperature=1e9)
    assert_near(hot.expected, codebook.mean(0).expand(40, -1), 1e-5)
    assert_near(hot.entropy, torch.full((40,), 500.0).log(), 1e-5)


def test_the_exponential_keeps_its_bound(level: str) -> None:
    """p of the second of two codes is exp(x) / (1 + exp(x)); docs/soft_assign.md states 1e-7."""
    x = -torch.cat([torch.linspace(0, 87, 50001), torch.logspace(-8, 1.9, 10001)])
    found = ops.soft_assign(
        x[:, None],
        torch.tensor([[0.0], [1.0]]),
        outputs=("expected",),
        metric="dot",
        values=torch.tensor([[0.0], [1.0]]),
    ).expected[:, 0]
    expected = x.double().sigmoid()
    error = (found.double() - expected).abs() / expected
    # Rounding the sum, the quotient and the result adds to the bound.
    assert error.max() <= 1e-7 + 2 * 2**-24


@pytest.mark.parametrize("seed", [0, 12345678901, -1])
def test_the_noise_is_the_definitions(seed: int, level: str) -> None:
    """With scores of 0 and one code left at a time, log_sum_exp is the noise itself."""
    k = 70
    z, codebook = torch.zeros(300, 1), torch.zeros(k, 1)
    expected = gumbel_noise(torch.tensor(seed), torch.arange(300), k)
    for code in (0, 1, 2, 3, 4, 37, 69):
        bias = torch.full((k,), -torch.inf).index_fill_(0, torch.tensor([code]), 0.0)
        found = ops.soft_assign(z, codebook, outputs=("log_sum_exp",), bias=bias, seed=seed)
        assert_near(found.log_sum_exp, expected[:, code], 3e-6 / float(expected.abs().max()))


def test_draws_have_the_softmaxs_probabilities() -> None:
    scores = torch.tensor([0.5, -1.0, 2.0, 0.0, -torch.inf])
    n = 200_000
    found = ops.soft_assign(
        torch.zeros(n, 1),
        torch.zeros(5, 1),
        outputs=("indices",),
        bias=scores,
        seed=11,
        temperature=0.3,  # which a draw does not depend on
    ).indices
    p = scores.softmax(0)
    frequency = torch.bincount(found, minlength=5) / n
    assert ((frequency - p).abs() <= 5 * (p * (1 - p) / n).sqrt()).all()
    again = ops.soft_assign(
        torch.zeros(n, 1), torch.zeros(5, 1), outputs=("indices",), bias=scores, seed=12
    ).indices
    assert (again != found).float().mean() > 0.3


def test_a_seed_may_be_a_tensor() -> None:
    z, codebook, *_ = problem(20, 30, 4, 4)
    one = ops.soft_assign(z, codebook, outputs=("indices",), seed=2**63 + 5).indices
    other = ops.soft_assign(
        z, codebook, outputs=("indices",), seed=torch.tensor([5 - 2**63])
    ).indices
    assert torch.equal(one, other)
