"""`soft_assign` against the dense formula, which plain torch differentiates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from soft_assign_cases import (
    OUTPUTS,
    SMOOTH,
    assert_near,
    dense,
    gradients,
    problem,
)
from torch import Tensor

from vqgan_fast import ops
from vqgan_fast.ops import reference

# Of results of size 1: what plain torch's dense formula reaches as well.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


SHAPES = [(1, 1, 1, 1), (5, 7, 3, 2), (13, 65, 9, 17), (49, 257, 31, 16), (110, 520, 33, 8)]


@pytest.mark.parametrize("metric", ["l2", "dot"])
@pytest.mark.parametrize("seed", [None, 5, -(2**62)])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_results_and_gradients_are_those_of_the_dense_formula(
    shape: tuple, dtype: torch.dtype, seed: int | None, metric: str, level: str
) -> None:
    inputs = [x.requires_grad_() for x in problem(*shape, dtype)]
    wide = [x.detach().double().requires_grad_() for x in inputs]
    z, codebook, values, bias = inputs
    options = {"temperature": 0.7, "metric": metric, "seed": seed}
    found = ops.soft_assign(z, codebook, outputs=OUTPUTS, values=values, bias=bias, **options)
    expected = dense(*wide, **options)
    for name, one, other in zip(SMOOTH, found[:4], expected[:4], strict=True):
        assert one.dtype == dtype, name
        assert_near(one, other, TOLERANCE[dtype])
    assert torch.equal(found.indices, expected.indices)
    weights = [torch.randn(out.shape) for out in expected[:4]]
    for one, other in zip(
        gradients(found, weights, inputs), gradients(expected, weights, wide), strict=True
    ):
        assert one.dtype == dtype
        assert_near(one, other, TOLERANCE[dtype])


@pytest.mark.parametrize("output", SMOOTH)
@pytest.mark.parametrize("metric", ["l2", "dot"])
def test_gradcheck(output: str, metric: str) -> None:
    inputs = [x.requires_grad_() for x in problem(5, 7, 3, 2, torch.float64)]

    def call(z: Tensor, codebook: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        values = values if output == "expected" else None
        options = {"outputs": (output,), "metric": metric, "temperature": 0.8, "seed": 3}
        assigned = ops.soft_assign(z, codebook, values=values, bias=bias, **options)
        return getattr(assigned, output)

    assert torch.autograd.gradcheck(call, inputs)


def test_a_codebook_that_is_also_the_values_gets_both_gradients() -> None:
    z, codebook, *_ = (x.requires_grad_() for x in problem(9, 20, 4, 4, torch.float64))
    found = ops.soft_assign(z, codebook, outputs=("expected",)).expected
    expected = dense(z, codebook).expected
    weights = torch.randn(found.shape)
    for one, other in zip(
        torch.autograd.grad((found * weights).sum(), (z, codebook)),
        torch.autograd.grad((expected * weights).sum(), (z, codebook)),
        strict=True,
    ):
        assert_near(one, other, 1e-12)


@pytest.mark.parametrize("needed", range(4))
@pytest.mark.parametrize("output", SMOOTH)
def test_each_gradient_alone(needed: int, output: str) -> None:
    inputs = list(problem(14, 30, 5, 3, torch.float64))
    inputs[needed].requires_grad_()
    if output != "expected" and needed == 2:
        return  # no other output depends on the values
    values = inputs[2] if output == "expected" else None
    z, codebook, _, bias = inputs
    assigned = ops.soft_assign(z, codebook, outputs=(output,), values=values, bias=bias)
    expected = dense(*inputs)
    weights = torch.randn(getattr(expected, output).shape)
    found, other = (
        torch.autograd.grad((getattr(x, output) * weights).sum(), inputs[needed])[0]
        for x in (assigned, expected)
    )
    assert_near(found, other, 1e-12)


def test_only_what_is_asked_for_is_given() -> None:
    z, codebook, _, _ = problem(4, 6, 3, 2)
    everything = ops.soft_assign(z, codebook, outputs=OUTPUTS)
    for name in OUTPUTS:
        alone = ops.soft_assign(z, codebook, outputs=(name,))
        assert [x is not None for x in alone] == [x == name for x in OUTPUTS]
        assert torch.equal(getattr(alone, name), getattr(everything, name))


@pytest.mark.usefixtures("restore_threads")
@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint64])
def test_numpys_integers_are_seeds(kind: type) -> None:
    z, codebook = torch.randn(50, 4), torch.randn(30, 4)
    for seed in (7, np.iinfo(kind).max):
        found, expected = (
            ops.soft_assign(z, codebook, outputs=("indices",), seed=of(seed)).indices
            for of in (kind, int)
        )
        assert torch.equal(found, expected)


@pytest.mark.parametrize("seed", [None, 1])
def test_the_same_bits_at_every_thread_count(seed: int | None, level: str) -> None:
    inputs = [x.requires_grad_() for x in problem(333, 700, 40, 24)]
    z, codebook, values, bias = inputs
    weights = [torch.randn(n) for n in (333, (333, 24), 333, 700)]
    results = []
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        found = ops.soft_assign(
            z, codebook, outputs=OUTPUTS, values=values, bias=bias, seed=seed, temperature=0.5
        )
        results.append([*found, *gradients(found, weights, inputs)])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_low_precision_is_read_without_loss(dtype: torch.dtype) -> None:
    inputs = [x.requires_grad_() for x in problem(30, 50, 8, 8, dtype)]
    z, codebook, values, bias = inputs
    found = ops.soft_assign(z, codebook, outputs=OUTPUTS, values=values, bias=bias)
    wide = [x.detach().double().requires_grad_() for x in inputs]
    expected = dense(*wide)
    for one, other in zip(found[:4], expected[:4], strict=True):
        assert one.dtype == torch.float32
        assert_near(one, other, 1e-5)
    weights = [torch.randn(out.shape) for out in expected[:4]]
    for one, other in zip(
        gradients(found, weights, inputs), gradients(expected, weights, wide), strict=True
    ):
        assert one.dtype == dtype
        assert_near(one, other, 1e-2 if dtype == torch.bfloat16 else 2e-3)


def test_memory_layouts_are_read_in_place() -> None:
    images, codebook = torch.randn(2, 6, 4, 5), torch.randn(12, 40).T[:, ::2]
    z = images.movedim(1, -1).requires_grad_()
    found = ops.soft_assign(z, codebook, outputs=OUTPUTS, seed=7, temperature=2.0)
    plain = ops.soft_assign(
        z.contiguous(), codebook.contiguous(), outputs=OUTPUTS, seed=7, temperature=2.0
    )
    assert found.expected.shape == (2, 4, 5, 6) and found.indices.shape == (2, 4, 5)
    assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))
    (gradient,) = torch.autograd.grad(found.expected.square().sum(), z)
    (other,) = torch.autograd.grad(plain.expected.square().sum(), z)
    assert torch.equal(gradient, other) and gradient.stride() == z.stride()


def test_no_latents() -> None:
    z, codebook = torch.zeros(0, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    found = ops.soft_assign(z, codebook, outputs=OUTPUTS)
    assert [tuple(x.shape) for x in found] == [(0,), (0, 4), (0,), (5,), (0,)]
    assert found.mean_probability.isnan().all()
    grads = torch.autograd.grad(found.expected.sum() + found.entropy.sum(), (z, codebook))
    assert grads[0].shape == (0, 4) and torch.equal(grads[1], torch.zeros(5, 4))


@pytest.mark.parametrize("metric", ["l2", "dot"])
def test_the_plain_torch_definition(metric: str) -> None:
    inputs = list(problem(9, 20, 4, 3, torch.float64))
    squared, seed = metric == "l2", torch.tensor(4)
    flags = (0.7, squared, True, True, True)
    found = reference.soft_assign(*inputs, seed, *flags)
    expected = torch.ops.vqgan_fast.soft_assign(*inputs, seed, *flags)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert_near(one, other, 1e-12)
    grads = [torch.randn(x.shape, dtype=torch.float64) for x in found[:4]]
    saved = (*inputs, seed, found[1], found[5], 0.7, squared, True, True, True, True)
    for one, other in zip(
        reference.soft_assign_backward(*grads, *saved),
        torch.ops.vqgan_fast.soft_assign_backward(*grads, *saved),
        strict=True,
    ):
        assert_near(one, other, 1e-12)


def test_autocast_changes_nothing() -> None:
    z, codebook, *_ = problem(20, 30, 4, 4)
    plain = ops.soft_assign(z, codebook, outputs=OUTPUTS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = ops.soft_assign(z, codebook, outputs=OUTPUTS)
    assert all(torch.equal(a, b) for a, b in zip(plain, cast, strict=True))


def test_it_can_be_differentiated_once() -> None:
    z, codebook, *_ = (x.requires_grad_() for x in problem(4, 5, 3, 3))
    entropy = ops.soft_assign(z, codebook, outputs=("entropy",)).entropy
    (gradient,) = torch.autograd.grad(entropy.sum(), z, create_graph=True)
    with pytest.raises(RuntimeError, match="soft_assign can be differentiated once, not twice"):
        torch.autograd.grad(gradient.sum(), z)
