"""What the tests of `soft_assign` share: the dense formula, and problems."""

from __future__ import annotations

import torch
from torch import Tensor

from vqgan_fast import ops
from vqgan_fast.ops.reference.soft_assign import gumbel_noise

OUTPUTS = ops.SoftAssignment._fields
SMOOTH = OUTPUTS[:4]


def dense(
    z: Tensor,
    codebook: Tensor,
    values: Tensor | None = None,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    metric: str = "l2",
    seed: int | None = None,
) -> ops.SoftAssignment:
    """The formulas of the docstring, N x K and all."""
    rows = z.reshape(-1, z.shape[-1])
    dot = metric == "dot"
    scores = rows @ codebook.T if dot else -(rows[:, None] - codebook).square().sum(-1)
    if bias is not None:
        scores = scores + bias
    if seed is not None:
        noise = gumbel_noise(torch.tensor(seed), torch.arange(len(rows)), len(codebook))
        scores = scores + noise.to(scores)
    logits = scores / temperature
    log_p = logits.log_softmax(1)
    p = log_p.exp()
    shape = z.shape[:-1]
    expected = p @ (codebook if values is None else values)
    return ops.SoftAssignment(
        logits.logsumexp(1).reshape(shape),
        expected.reshape(*shape, -1),
        -(p * log_p).sum(1).reshape(shape),
        p.mean(0),
        logits.argmax(1).reshape(shape),
    )


def problem(
    n: int, k: int, d: int, c: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """z, codebook, values and bias whose softmax is neither flat nor one code."""
    scale = d**-0.25  # dot products and distances of size 1
    shapes = ((n, d), (k, d), (k, c), (k,))
    return tuple((torch.randn(shape) * scale).to(dtype) for shape in shapes)


def assert_near(found: Tensor, expected: Tensor, tolerance: float) -> None:
    found, expected = found.detach().double(), expected.detach().double()
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * max(1.0, float(expected.abs().max()))


def gradients(outputs: ops.SoftAssignment, weights: list[Tensor], inputs: list[Tensor]) -> list:
    loss = sum((out * w.to(out.dtype)).sum() for out, w in zip(outputs[:4], weights, strict=True))
    return torch.autograd.grad(loss, inputs)
